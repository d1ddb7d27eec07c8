"""Speaks the contract of merchants' settings, and of the event that tells of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from smartpay.payments.v1 import merchants_pb2, merchants_pb2_grpc, payment_pb2
from smartpay.type.v1 import money_pb2
from smartpay_chassis.calls import Call, current_call
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.events import MERCHANT_UPDATED
from smartpay_payments.domain.merchants import (
    FailPolicy,
    Profile,
    ReviewPolicy,
    Settings,
    check_etag,
    check_limits,
)
from smartpay_payments.domain.payment import CaptureMethod
from smartpay_payments.messages import timestamp
from smartpay_payments.server.audit import record_of_call
from smartpay_payments.server.processor_accounts import account_message

Context = object  # gRPC's own context is the interceptors' business


class Directory(Protocol):
    """All merchants as they are now."""

    def get(self, merchant_id: str, livemode: bool) -> Profile | None:
        """Finds a merchant's test or live profile."""
        ...

    async def save(self, profile: Profile, record: AuditRecord) -> bool:
        """Stores a profile's next version; answers False when somebody else was faster."""
        ...


class MerchantsServicer(merchants_pb2_grpc.MerchantsServiceServicer):
    """Serves the contract.

    Args:
        directory: all merchants as they are now.
        clock: the time, aware.
    """

    def __init__(self, directory: Directory, clock: Callable[[], datetime]) -> None:
        self._directory = directory
        self._clock = clock

    async def GetMerchant(
        self, request: merchants_pb2.GetMerchantRequest, context: Context
    ) -> merchants_pb2.GetMerchantResponse:
        """Shows the merchant of the call."""
        profile = profile_of(self._directory, current_call())
        current_call().respond_with(headers={"etag": profile.settings_etag})
        return merchants_pb2.GetMerchantResponse(merchant=_merchant_message(profile))

    async def UpdateMerchant(
        self, request: merchants_pb2.UpdateMerchantRequest, context: Context
    ) -> merchants_pb2.UpdateMerchantResponse:
        """Replaces the settings."""
        call = current_call()
        settings = _settings_of(request.settings)
        check_limits(settings, [m.currency_code for m in request.settings.fraud_fail_limits])
        while True:
            before = profile_of(self._directory, call)
            now = self._clock()
            after = before.with_settings(settings, request.etag, now)
            record = record_of_call(
                call, call.merchant_id, before.settings.facts(), settings.facts(), now
            )
            if await self._directory.save(after, record):
                break
            if profile_of(self._directory, call).version == before.version:
                # Another replica was faster; its change is not known here yet.
                check_etag(request.etag, "")
        call.respond_with(headers={"etag": after.settings_etag})
        return merchants_pb2.UpdateMerchantResponse(merchant=_merchant_message(after))


def profile_of(directory: Directory, call: Call) -> Profile:
    """Finds the profile of the call's merchant."""
    profile = directory.get(call.merchant_id, call.livemode)
    assert profile is not None  # the interceptor lets no call of a stranger through
    return profile


def merchant_event_message(profile: Profile) -> merchants_pb2.MerchantEvent:
    """Spells the event that made this version, with the attributes of CloudEvents 1.0."""
    mode = "live" if profile.livemode else "test"
    name = profile.merchant_id.removeprefix("mer_")
    return merchants_pb2.MerchantEvent(
        id=f"evt_{name}_{mode}_{profile.version}",
        source=f"smartpay/payments/{profile.cell}",
        specversion="1.0",
        type=MERCHANT_UPDATED,
        subject=profile.merchant_id,
        time=timestamp(profile.update_time),
        sequence=profile.version,
        merchant_id=profile.merchant_id,
        livemode=profile.livemode,
        settings=_settings_message(profile.settings),
        processor_accounts=[account_message(a, profile.livemode) for a in profile.accounts],
    )


def _settings_of(message: merchants_pb2.MerchantSettings) -> Settings:
    fail = merchants_pb2.FraudFailPolicy.Name(message.fraud_fail_policy)
    review = merchants_pb2.FraudReviewPolicy.Name(message.fraud_review_policy)
    manual = message.capture_method == payment_pb2.CAPTURE_METHOD_MANUAL
    return Settings(
        fraud_fail_policy=FailPolicy(fail.removeprefix("FRAUD_FAIL_POLICY_")),
        fraud_fail_limits={m.currency_code: m.minor_units for m in message.fraud_fail_limits},
        fraud_review_policy=ReviewPolicy(review.removeprefix("FRAUD_REVIEW_POLICY_")),
        capture_method=CaptureMethod.MANUAL if manual else CaptureMethod.AUTOMATIC,
        account_order=tuple(message.account_order),
        attempts_max=message.attempts_max,
        cascade_seconds=message.cascade_seconds,
        rewards_enabled=message.rewards_enabled,
        reward_vesting_seconds=(
            message.reward_vesting_seconds if message.HasField("reward_vesting_seconds") else None
        ),
        merchant_category=message.merchant_category,
    )


def _settings_message(settings: Settings) -> merchants_pb2.MerchantSettings:
    return merchants_pb2.MerchantSettings(
        fraud_fail_policy=merchants_pb2.FraudFailPolicy.Value(
            f"FRAUD_FAIL_POLICY_{settings.fraud_fail_policy.value}"
        ),
        fraud_fail_limits=[
            money_pb2.Money(minor_units=minor, currency_code=currency)
            for currency, minor in sorted(settings.fraud_fail_limits.items())
        ],
        fraud_review_policy=merchants_pb2.FraudReviewPolicy.Value(
            f"FRAUD_REVIEW_POLICY_{settings.fraud_review_policy.value}"
        ),
        capture_method=payment_pb2.CaptureMethod.Value(
            f"CAPTURE_METHOD_{settings.capture_method.value}"
        ),
        account_order=settings.account_order,
        attempts_max=settings.attempts_max,
        cascade_seconds=settings.cascade_seconds,
        rewards_enabled=settings.rewards_enabled,
        reward_vesting_seconds=settings.reward_vesting_seconds,
        merchant_category=settings.merchant_category,
    )


def _merchant_message(profile: Profile) -> merchants_pb2.Merchant:
    return merchants_pb2.Merchant(
        merchant_id=profile.merchant_id,
        livemode=profile.livemode,
        name=profile.name,
        settings=_settings_message(profile.settings),
        update_time=timestamp(profile.settings_time),
        etag=profile.settings_etag,
    )
