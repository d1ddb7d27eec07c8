"""Saved tokens at Stripe: Customers, attached PaymentMethods and SetupIntents.

A PaymentMethod may be charged once unless it is attached to a Customer, and is charged without
the payer only if it was set up for that (https://docs.stripe.com/payments/save-and-reuse).
"""

from __future__ import annotations

import stripe
import structlog

from smartpay_payments.adapters.stripe_clients import FAILURES, NO_ANSWER, StripeClients
from smartpay_payments.domain.instruments import SavedToken, SetupOutcome, TokenStatus
from smartpay_payments.domain.payment import ActionKind, NextAction

log = structlog.get_logger()

SETTING_UP = SetupOutcome(TokenStatus.SETTING_UP)


class StripeVault:
    """The port `Vault` for Stripe accounts.

    Args:
        clients: the SDK's clients by account.
        return_url: where the payer's browser goes after 3-D Secure.
    """

    def __init__(self, clients: StripeClients, return_url: str) -> None:
        self._clients = clients
        self._return_url = return_url

    async def open_payer(self, processor_account_id: str, reference: str) -> str:
        """Makes a Customer that holds nothing but our reference."""
        try:
            made = await self._clients[processor_account_id].v1.customers.create_async(
                params={"metadata": {"customer": reference}},
                options={"idempotency_key": f"{reference}-open"},
            )
        except FAILURES as error:
            _tell("a customer could not be made", error)
            return ""
        return made.id

    async def set_up(
        self, token: SavedToken, payer: str, key: str, *, off_session: bool
    ) -> SetupOutcome:
        """Attaches the PaymentMethod, off session by a confirmed SetupIntent."""
        client = self._clients[token.processor_account_id]
        options: stripe.RequestOptions = {"idempotency_key": key}
        try:
            if not off_session:
                await client.v1.payment_methods.attach_async(
                    token.token, params={"customer": payer}, options=options
                )
                return SetupOutcome(TokenStatus.READY)
            intent = await client.v1.setup_intents.create_async(
                params={
                    "customer": payer,
                    "payment_method": token.token,
                    "allowed_payment_method_types": ["card"],
                    "usage": "off_session",
                    "confirm": True,
                    "return_url": self._return_url,
                },
                options=options,
            )
        except FAILURES as error:
            return _refused(error)
        return outcome_of(intent)

    async def look_at_setup(self, token: SavedToken) -> SetupOutcome:
        """Reads the SetupIntent."""
        client = self._clients[token.processor_account_id]
        try:
            intent = await client.v1.setup_intents.retrieve_async(token.setup_id)
        except FAILURES as error:
            _tell("a set-up could not be read", error)
            return SetupOutcome(token.status, next_action=token.next_action)
        return outcome_of(intent)

    async def detach(self, token: SavedToken) -> bool:
        """Detaches the PaymentMethod; one that is not attached, or unknown, is detached."""
        client = self._clients[token.processor_account_id]
        try:
            await client.v1.payment_methods.detach_async(token.token)
        except stripe.InvalidRequestError:
            return True
        except FAILURES as error:
            _tell("a token could not be detached", error)
            return False
        return True

    async def close_payer(self, processor_account_id: str, payer: str) -> bool:
        """Deletes the Customer, which detaches everything and erases what Stripe holds of it."""
        try:
            await self._clients[processor_account_id].v1.customers.delete_async(payer)
        except stripe.InvalidRequestError as error:
            # Deleted before.
            return error.http_status == 404
        except FAILURES as error:
            _tell("a customer could not be deleted", error)
            return False
        return True


def outcome_of(intent: stripe.SetupIntent) -> SetupOutcome:
    """Reads what a SetupIntent's status means for the token."""
    match intent.status:
        case "succeeded":
            return SetupOutcome(TokenStatus.READY, intent.id)
        case "requires_action":
            redirect = getattr(intent.next_action, "redirect_to_url", None)
            url = getattr(redirect, "url", None) or ""
            return SetupOutcome(
                TokenStatus.REQUIRES_ACTION,
                intent.id,
                next_action=NextAction(ActionKind.REDIRECT, url),
            )
        case "requires_payment_method" | "canceled" | "requires_confirmation":
            return SetupOutcome(TokenStatus.FAILED, intent.id, _failure(intent.last_setup_error))
        case _:
            return SetupOutcome(TokenStatus.SETTING_UP, intent.id)


def _failure(error: object) -> str:
    code = getattr(error, "decline_code", None) or getattr(error, "code", None)
    return str(code or "declined")


def _refused(error: Exception) -> SetupOutcome:
    """Reads an error: a decline or a refused request is a no, all else leaves it open."""
    if isinstance(error, stripe.CardError | stripe.InvalidRequestError):
        detail = error.error
        intent = getattr(getattr(detail, "setup_intent", None), "id", None) or ""
        return SetupOutcome(TokenStatus.FAILED, intent, _failure(detail or error))
    _tell("a token could not be set up", error)
    return SETTING_UP


def _tell(what: str, error: Exception) -> None:
    level = log.info if isinstance(error, NO_ANSWER) else log.warning
    level(what, error=type(error).__name__, code=getattr(error, "code", None) or "")
