"""A merchant's own rules and accounts: what it may change, and what payments make of them.

The mounted table says who the merchants are, and which accounts and rules they begin with. What
a merchant changes is one `Profile`: every change makes its next version and one event.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.eligibility import Account, MerchantTerms
from smartpay_payments.domain.payment import CaptureMethod

# Profiles are read and stored whole; this many stay far below the 400 kB of one stored item.
ACCOUNTS_MAX = 64
# A rotation needs two; more are forgotten ones.
WEBHOOK_SECRETS_MAX = 4
# What Solana moves, and nobody else.
TOKENS = frozenset({"SOL", "USDC"})


class FailPolicy(StrEnum):
    """What to do when fraud can't be asked in time; the names are the contract's."""

    OPEN = "OPEN"
    CLOSED = "CLOSED"
    RULES = "RULES"


class ReviewPolicy(StrEnum):
    """What to do when fraud wants a person to look; the names are the contract's."""

    CHARGE = "CHARGE"
    BLOCK = "BLOCK"
    HOLD = "HOLD"


@dataclass(frozen=True, slots=True)
class Settings:
    """The rules a merchant chose."""

    fraud_fail_policy: FailPolicy = FailPolicy.CLOSED
    fraud_fail_limits: dict[str, int] = field(default_factory=dict)
    """Largest amount in minor units per currency that is charged without fraud's word."""
    fraud_review_policy: ReviewPolicy = ReviewPolicy.CHARGE
    capture_method: CaptureMethod = CaptureMethod.AUTOMATIC
    account_order: tuple[str, ...] = ()
    """Accounts to try first when the router can't be asked."""
    attempts_max: int = 3
    """Accounts tried for one payment; more looks like card testing to issuers."""
    cascade_seconds: int = 20
    """No further account is tried later than that; the payer is waiting."""
    rewards_enabled: bool = True
    reward_vesting_seconds: int | None = None
    """None leaves it to the rewards service's own setting."""
    merchant_category: str = ""
    """What is sold: a code of ISO 18245; fraud is told."""

    def facts(self) -> dict[str, object]:
        """Lists the settings for the audit trail."""
        return {
            "fraud_fail_policy": self.fraud_fail_policy.value,
            **{f"fraud_fail_limits.{c}": m for c, m in self.fraud_fail_limits.items()},
            "fraud_review_policy": self.fraud_review_policy.value,
            "capture_method": self.capture_method.value,
            "account_order": " ".join(self.account_order),
            "attempts_max": self.attempts_max,
            "cascade_seconds": self.cascade_seconds,
            "rewards_enabled": self.rewards_enabled,
            "reward_vesting_seconds": self.reward_vesting_seconds,
            "merchant_category": self.merchant_category,
        }


@dataclass(frozen=True, slots=True)
class Fee:
    """What a processor takes of a charge: a share and a fixed part in minor units."""

    basis_points: int
    fixed_minor_units: int


@dataclass(frozen=True, slots=True)
class WebhookSecretName:
    """A webhook secret as everybody may know it; the secret itself is in the secret store."""

    webhook_secret_id: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class ProcessorAccount:
    """One account of a merchant at one processor, without its secrets."""

    processor_account_id: str
    processor: str
    name: str
    fees: dict[str, Fee]
    """By currency; it is charged only in these."""
    enabled: bool
    read_only: bool = False
    """True when it stands in the mounted table."""
    version: int = 1
    request_hash: str = ""
    """Of the request that added it."""
    credentials_id: str = ""
    """Names the secret; new with each change, so that nothing in use is overwritten."""
    credentials_time: datetime | None = None
    webhooks_id: str = ""
    """Names the secret that holds all webhook secrets; "" while there are none."""
    webhook_secrets: tuple[WebhookSecretName, ...] = ()
    create_time: datetime | None = None
    update_time: datetime | None = None

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return f'"{self.version}"'

    def facts(self) -> dict[str, object]:
        """Lists what the audit trail may hold of the account."""
        return {
            "processor": self.processor,
            "name": self.name,
            "enabled": self.enabled,
            **{
                f"fees.{currency}": f"{fee.basis_points} bp + {fee.fixed_minor_units}"
                for currency, fee in self.fees.items()
            },
            "credentials_id": self.credentials_id,
            "webhook_secrets": " ".join(s.webhook_secret_id for s in self.webhook_secrets),
        }


@dataclass(frozen=True, slots=True)
class Profile:
    """A merchant and mode with everything in force: the table's part and what was changed here."""

    merchant_id: str
    livemode: bool
    name: str
    settings: Settings
    table_accounts: tuple[ProcessorAccount, ...] = ()
    """Those of the mounted table; never stored."""
    accounts: tuple[ProcessorAccount, ...] = ()
    """Those that were added here."""
    version: int = 0
    """Counts the changes; 0 while all is as the table says."""
    settings_version: int = 0
    settings_time: datetime | None = None
    update_time: datetime | None = None

    @property
    def cell(self) -> str:
        """The merchant's home region."""
        return self.merchant_id[4:6]

    @property
    def settings_etag(self) -> str:
        """Changes with every change of the settings."""
        return f'"{self.settings_version}"'

    def all_accounts(self) -> tuple[ProcessorAccount, ...]:
        """Lists all accounts in the merchant's own order."""
        known = {a.processor_account_id: a for a in (*self.table_accounts, *self.accounts)}
        first = [known.pop(i) for i in self.settings.account_order if i in known]
        return (*first, *known.values())

    def account(self, processor_account_id: str) -> ProcessorAccount:
        """Finds one account; raises Refusal ACCOUNT_NOT_FOUND."""
        for account in (*self.accounts, *self.table_accounts):
            if account.processor_account_id == processor_account_id:
                return account
        raise Refusal(
            Kind.NOT_FOUND,
            "ACCOUNT_NOT_FOUND",
            "There is no such processor account.",
            remedy="List the merchant's processor accounts, and name one of them.",
            field="processor_account_id",
        )

    def own_account(self, processor_account_id: str) -> ProcessorAccount:
        """Finds one account that may be changed here; raises Refusal ACCOUNT_READ_ONLY."""
        account = self.account(processor_account_id)
        if account.read_only:
            raise Refusal(
                Kind.FAILED_PRECONDITION,
                "ACCOUNT_READ_ONLY",
                "The account stands in the mounted table of merchants.",
                remedy="Change the table that the operator mounts, or add an account here.",
                field="processor_account_id",
            )
        return account

    def with_settings(self, settings: Settings, etag: str, now: datetime) -> Profile:
        """Answers the next version with other settings.

        Raises:
            Refusal: ETAG_MISMATCH, or ACCOUNT_NOT_FOUND for an order that names a stranger.
        """
        check_etag(etag, self.settings_etag)
        for processor_account_id in settings.account_order:
            self.account(processor_account_id)
        return replace(
            self,
            settings=settings,
            settings_version=self.settings_version + 1,
            settings_time=now,
            update_time=now,
            version=self.version + 1,
        )

    def with_account(self, account: ProcessorAccount, now: datetime) -> Profile:
        """Answers the next version with an account added, or replaced by its id.

        Raises:
            Refusal: LIMIT_REACHED.
        """
        others = tuple(
            a for a in self.accounts if a.processor_account_id != account.processor_account_id
        )
        is_new = len(others) == len(self.accounts)
        if is_new and len(others) + len(self.table_accounts) >= ACCOUNTS_MAX:
            raise limit_reached("processor accounts", ACCOUNTS_MAX)
        if is_new:
            accounts = (*others, account)
        else:
            accounts = tuple(
                account if a.processor_account_id == account.processor_account_id else a
                for a in self.accounts
            )
        return replace(self, accounts=accounts, version=self.version + 1, update_time=now)

    def terms(self) -> MerchantTerms:
        """Answers what the story of a payment asks of the merchant."""
        settings = self.settings
        return MerchantTerms(
            accounts=tuple(
                Account(a.processor_account_id, a.processor, frozenset(a.fees), a.enabled)
                for a in self.all_accounts()
            ),
            blocks_when_fraud_is_away=settings.fraud_fail_policy is not FailPolicy.OPEN,
            blocks_what_needs_review=settings.fraud_review_policy is ReviewPolicy.BLOCK,
            holds_what_needs_review=settings.fraud_review_policy is ReviewPolicy.HOLD,
            charged_without_fraud=(
                settings.fraud_fail_limits if settings.fraud_fail_policy is FailPolicy.RULES else {}
            ),
            attempts_max=settings.attempts_max,
            cascade_seconds=float(settings.cascade_seconds),
            rewards_enabled=settings.rewards_enabled,
            reward_vesting_seconds=settings.reward_vesting_seconds,
            merchant_category=settings.merchant_category,
            capture_method=settings.capture_method,
        )


def check_limits(settings: Settings, names: Collection[str]) -> None:
    """Refuses limits without the policy that uses them, and a currency that is named twice.

    Args:
        settings: as asked for.
        names: the currencies of the limits as they were given.
    """
    if len(names) != len(settings.fraud_fail_limits):
        problem = "A currency has two limits."
    elif names and settings.fraud_fail_policy is not FailPolicy.RULES:
        problem = "The limits are used by the policy RULES alone."
    elif any(limit <= 0 for limit in settings.fraud_fail_limits.values()):
        problem = "A limit is not above zero."
    else:
        return
    raise Refusal(
        Kind.INVALID_ARGUMENT,
        "FIELD_INVALID",
        problem,
        remedy="Give one limit above zero per currency, and the policy RULES.",
        field="settings.fraud_fail_limits",
    )


def check_mode(processor: str, secrets: Mapping[str, str], livemode: bool) -> None:
    """Refuses credentials of the other mode, as far as they tell theirs.

    A Solana wallet is the same in both: which chain it is asked on is the operator's setting.
    """
    word = {
        "stripe": secrets.get("secret_key", "").partition("_")[2].partition("_")[0],
        "amazon_pay": secrets.get("public_key_id", "").partition("-")[0],
    }.get(processor)
    if word is not None and (word.lower() == "live") is not livemode:
        raise credentials_refused(
            "The credentials are of the other mode.",
            "Send live credentials with a live token, test or sandbox ones with a test token.",
        )


def check_currencies(processor: str, currencies: Collection[str]) -> None:
    """Refuses fees in currencies that a rail of tokens does not have, and tokens elsewhere."""
    foreign = [c for c in currencies if (c in TOKENS) is not (processor == "solana")]
    if foreign:
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "FIELD_INVALID",
            f"The account can't charge {min(foreign)}.",
            remedy="Give fees in SOL and USDC on Solana, in other currencies elsewhere.",
            field="fees",
        )


def credentials_refused(problem: str, remedy: str) -> Refusal:
    """Refuses credentials; never says anything of their content."""
    return Refusal(
        Kind.INVALID_ARGUMENT,
        "CREDENTIALS_REFUSED",
        problem,
        remedy=remedy,
        field="credentials",
    )


def check_etag(given: str, present: str) -> None:
    """Refuses a change of what somebody else changed meanwhile.

    A weak tag (W/"1", which compressing proxies make) names the same version.
    """
    if given.removeprefix("W/") != present:
        raise Refusal(
            Kind.ABORTED,
            "ETAG_MISMATCH",
            "It was changed since it was read.",
            remedy="Read it again and send the change with its present etag.",
            field="etag",
        )


def limit_reached(what: str, limit: int) -> Refusal:
    """Refuses one more than there may be."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "LIMIT_REACHED",
        f"There are {limit} {what} already.",
        remedy="Remove one first.",
        facts={"limit": str(limit)},
    )
