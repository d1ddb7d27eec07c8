"""One Amazon Pay merchant account: its objects, and what may happen to the buyer's money.

Rules: developer.amazon.com/docs/amazon-pay-api-v2 and .../amazon-pay-checkout (states and reason
codes of each object, asynchronous processing, sandbox simulations). Commands stage their changes,
so that a refusal changes nothing; whoever runs them takes the staged objects and makes them
durable. Where Amazon documents nothing, the sandbox does what is harder to get right for a caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any, NamedTuple

from smartpay_sandbox import amazon_pay_objects as objects
from smartpay_sandbox.amazon_pay_objects import (
    Json,
    check_agreed,
    check_payment,
    minor_units,
    price,
    public,
)
from smartpay_sandbox.amazon_pay_refusals import (
    AmazonPayRefusalError,
    amount_exceeded,
    currency_mismatch,
    declined,
    invalid,
    not_found,
    wrong_state,
)

KINDS = {
    "checkoutSession": "checkoutSessionId",
    "chargePermission": "chargePermissionId",
    "charge": "chargeId",
    "refund": "refundId",
    "report": "reportId",
}
"""The kinds of object an account keeps, with the field that identifies each."""
SETTLING_SECONDS = 30
"""How long an asynchronous authorization or capture takes; Amazon's sandbox takes the same."""
REFUND_SECONDS = 2
"""How long a refund takes here; Amazon's takes minutes to days."""
SYNCHRONOUS_CAPTURE_SECONDS = 7 * 24 * 3600
"""A capture later than this after the authorization is asynchronous."""
REFUNDS_MAX = 10
"""Refunds of one charge."""

HAPPY_CARDS = ("1111", "0005", "4444", "9424", "0000")
CARDS = (*HAPPY_CARDS, "3064", "3434", "0701", "4354")
"""Last digits of the payment methods a sandbox buyer chooses from: 3064 cancels, 3434 is
declined, 0701 is authorized after 30 s, 4354 is declined after 30 s."""
_OPEN_CHARGES = ("AuthorizationInitiated", "Authorized")


class Answer(NamedTuple):
    """What an operation answers: HTTP status and body."""

    status: int
    body: Json


class AmazonPayAccount:
    """The objects of one merchant, and the operations on them."""

    def __init__(self, merchant_id: str, store_id: str, clock: Callable[[], float]) -> None:
        self.merchant_id = merchant_id
        self.store_id = store_id
        self.clock = clock
        self._kept: dict[str, dict[str, Json]] = {kind: {} for kind in KINDS}
        self._staged: dict[str, tuple[str, Json]] = {}
        self._due: list[tuple[float, str, str]] = []
        """Heap of what changes by itself: when, kind, id; stale once the object moved on."""
        self.pages: dict[str, Json] = {}
        """Filters of lists by the token of their next page."""
        self.downloads: dict[str, tuple[str, float]] = {}
        """Report documents by the token in their address, with the end of each."""

    # --- keeping ---

    def keep(self, found: Iterable[tuple[str, Json]]) -> list[tuple[str, Json]]:
        """Take objects as they were committed; answer those whose state is news."""
        news = []
        for kind, item in found:
            object_id = item[KINDS[kind]]
            before = self._kept[kind].get(object_id)
            if before is None or _state(before) != _state(item):
                news.append((kind, item))
            self._kept[kind][object_id] = item
            if "_moves" in item:
                heappush(self._due, (item["_moves"]["at"], kind, object_id))
        return news

    def staged(self) -> list[tuple[str, Json]]:
        """List what the last command changed and nobody committed yet, with its kind."""
        return list(self._staged.values())

    def unstage(self) -> None:
        """Forget what the last command changed."""
        self._staged = {}

    def dump(self) -> dict[str, Any]:
        """Copy out every object by kind and id, the sandbox's own memory included."""
        return {f"{kind}s": dict(kept) for kind, kept in self._kept.items()}

    def find(self, kind: str, object_id: str) -> Json:
        """Read one object, staged ones first.

        Raises:
            AmazonPayRefusalError: 404.
        """
        found = self._staged.get(object_id, (kind, None))[1] or self._kept[kind].get(object_id)
        if found is None:
            raise not_found(kind, object_id)
        return found

    def every(self, kind: str) -> list[Json]:
        """List the objects of a kind, staged ones included, in the order of their creation."""
        staged = {name: item for name, (found, item) in self._staged.items() if found == kind}
        return list({**self._kept[kind], **staged}.values())

    def put(self, kind: str, item: Json, **changes: object) -> Json:
        """Stage an object with some fields changed; answers it."""
        changed = {**item, **changes}
        self._staged[changed[KINDS[kind]]] = (kind, changed)
        return changed

    # --- what time does ---

    def settle(self) -> None:
        """Stage everything whose time has come: asynchronous results, expiries."""
        now = self.clock()
        while self._due and self._due[0][0] <= now:
            due, kind, object_id = heappop(self._due)
            item = self.find(kind, object_id)
            if item.get("_moves", {}).get("at") == due:
                self._settle_one(kind, item, item["_moves"]["to"])

    def _settle_one(self, kind: str, item: Json, goal: str) -> None:
        still = _at_rest(item)
        if kind == "refund":
            self._settle_refund(still, goal)
        elif kind == "checkoutSession":
            self._cancel_session(still, goal)
        elif goal == "Authorized":
            self._authorized(still)
        elif goal == "Captured":
            self._captured(still, still["_captured"])
        elif goal == "ExpiredUnused":
            self._end_charge(still, "Canceled", goal)
        else:
            self._end_charge(still, "Declined", goal)

    def _settle_refund(self, refund: Json, goal: str) -> None:
        charge = self.find("charge", refund["chargeId"])
        left = charge["_refunding"] - refund["_units"]
        if goal != "Refunded":
            self.put("refund", refund, statusDetails=self._status("Declined", goal))
            self.put("charge", charge, _refunding=left)
            return
        currency = charge["chargeAmount"]["currencyCode"]
        before = _units(charge["refundedAmount"])
        settled = self._status("Refunded")
        self.put("refund", refund, statusDetails=settled, _posted=self.clock())
        whole = price(before + refund["_units"], currency)
        self.put("charge", charge, _refunding=left, refundedAmount=whole)

    def _status(self, state: str, reason: str | None = None) -> Json:
        return objects.status(state, self.clock(), reason)

    # --- checkout sessions ---

    def create_session(self, params: Json, url: str) -> Answer:
        """Open a Checkout Session."""
        if params["storeId"] != self.store_id:
            raise invalid("storeId", "is not a store of this merchant")
        kind = params.get("chargePermissionType", "OneTime")
        if (kind == "Recurring") != ("recurringMetadata" in params):
            raise invalid("recurringMetadata", "goes with chargePermissionType Recurring")
        check_payment(params.get("paymentDetails", {}))
        session = self._constrained(objects.session(self.clock(), params), url)
        return Answer(201, public(self.put("checkoutSession", session)))

    def get_session(self, session_id: str) -> Answer:
        """Read a Checkout Session; Amazon forgets it after 30 days."""
        return Answer(200, public(self._session(session_id)))

    def _session(self, session_id: str) -> Json:
        session = self.find("checkoutSession", session_id)
        if session["_created"] + objects.SESSION_KEPT_SECONDS <= self.clock():
            raise not_found("checkoutSession", session_id)
        return session

    def update_session(self, session_id: str, params: Json, url: str) -> Answer:
        """Change an open session that its buyer has not agreed to yet."""
        session = self._session(session_id)
        if _state(session) != "Open" or session["_card"] is not None:
            raise wrong_state("CheckoutSession", _state(session))
        check_payment(params.get("paymentDetails", {}))
        for part in ("webCheckoutDetails", "paymentDetails", "merchantMetadata"):
            session = {**session, part: {**session[part], **params.get(part, {})}}
        return Answer(200, public(self.put("checkoutSession", self._constrained(session, url))))

    def _constrained(self, session: Json, url: str) -> Json:
        web, payment = session["webCheckoutDetails"], session["paymentDetails"]
        needed = {
            "CheckoutResultReturnUrlNotSet": web["checkoutResultReturnUrl"],
            "PaymentIntentNotSet": payment["paymentIntent"],
            "ChargeAmountNotSet": payment["chargeAmount"],
        }
        unmet = [
            {"constraintId": name, "description": "Set it before the buyer checks out."}
            for name, value in needed.items()
            if value is None
        ]
        redirect = None if unmet else url + session["checkoutSessionId"]
        web = {**web, "amazonPayRedirectUrl": redirect}
        return {**session, "webCheckoutDetails": web, "constraints": unmet}

    def agree(self, session_id: str, card: str) -> Json:
        """Take the buyer's consent on Amazon's page, with the payment method they chose."""
        session = self._buyers(session_id)
        if card not in CARDS:
            raise invalid("card", f"must be one of {', '.join(CARDS)}")
        payment = session["paymentDetails"]
        pending = payment["canHandlePendingAuthorization"]
        if card in ("0701", "4354") and (payment["paymentIntent"] != "Authorize" or not pending):
            raise AmazonPayRefusalError(
                400,
                "InvalidSandboxSimulationSpecified",
                "This payment method needs paymentIntent Authorize and "
                "canHandlePendingAuthorization true.",
            )
        return self.put(
            "checkoutSession",
            session,
            buyer={"buyerId": "amzn1.account.SANDBOX", "name": None, "email": None},
            paymentPreferences=[{"paymentDescriptor": f"Visa ****{card} (Amazon Pay)"}],
            _card=card,
        )

    def walk_away(self, session_id: str) -> Json:
        """Let the buyer cancel on Amazon's page."""
        session = self._buyers(session_id)
        return self._cancel_session(session, "BuyerCanceled")

    def _buyers(self, session_id: str) -> Json:
        session = self._session(session_id)
        if _state(session) != "Open" or session["constraints"]:
            raise wrong_state("CheckoutSession", _state(session))
        return session

    def _cancel_session(self, session: Json, reason: str) -> Json:
        ended = self._status("Canceled", reason)
        return self.put("checkoutSession", _at_rest(session), statusDetails=ended)

    def complete_session(self, session_id: str, params: Json, code: str) -> Answer:
        """Make final what the buyer agreed to; only this call moves money, and only once."""
        session = self._session(session_id)
        if _state(session) == "Canceled":
            return _session_canceled()
        if _state(session) != "Open" or session["_card"] is None:
            raise wrong_state("CheckoutSession", _state(session))
        check_agreed(session["paymentDetails"]["chargeAmount"], params)
        reason = code if code in ("BuyerCanceled", "AmazonCanceled", "Declined") else ""
        reason = reason or {"3064": "BuyerCanceled", "3434": "Declined"}.get(session["_card"], "")
        if reason:
            self._cancel_session(session, reason)
            return _session_canceled()
        return self._completed(session, code)

    def _completed(self, session: Json, code: str) -> Answer:
        payment, metadata = session["paymentDetails"], session["merchantMetadata"]
        kind = session["chargePermissionType"]
        agreed = payment["totalOrderAmount"] or payment["chargeAmount"]
        whole = price(minor_units(agreed, "chargeAmount"), agreed["currencyCode"])
        limit = whole if kind == "OneTime" else None
        permission = self.put(
            "chargePermission",
            objects.permission(self.clock(), kind, limit, session["_card"], metadata),
        )
        charge = None
        if payment["paymentIntent"] != "Confirm":
            wanted = {
                "chargeAmount": payment["chargeAmount"],
                "captureNow": payment["paymentIntent"] == "AuthorizeWithCapture",
                "softDescriptor": payment["softDescriptor"],
                "canHandlePendingAuthorization": payment["canHandlePendingAuthorization"],
            }
            charge = self._charged(permission, wanted, metadata, code)
        session = self.put(
            "checkoutSession",
            _at_rest(session),
            statusDetails=self._status("Completed"),
            chargePermissionId=permission["chargePermissionId"],
            chargeId=charge and charge["chargeId"],
            webCheckoutDetails={**session["webCheckoutDetails"], "amazonPayRedirectUrl": None},
        )
        waits = charge is not None and _state(charge) == "AuthorizationInitiated"
        return Answer(202 if waits else 200, public(session))

    # --- charge permissions ---

    def grant(self, card: str, kind: str = "Recurring") -> Json:
        """Let a buyer agree to later charges, as a finished set-up would leave it."""
        if card not in CARDS or kind not in ("Recurring", "PaymentMethodOnFile"):
            raise invalid("card", f"must be one of {', '.join(CARDS)}; the type a lasting one")
        metadata = objects.merchant_metadata({})
        return self.put(
            "chargePermission", objects.permission(self.clock(), kind, None, card, metadata)
        )

    def get_permission(self, permission_id: str) -> Answer:
        """Read a Charge Permission."""
        return Answer(200, public(self.find("chargePermission", permission_id)))

    def close_permission(self, permission_id: str, params: Json) -> Answer:
        """Close a Charge Permission, and cancel its open charges when asked to."""
        permission = self.find("chargePermission", permission_id)
        if _state(permission) != "Closed":
            permission = self._close(permission, "MerchantClosed")
        if params.get("cancelPendingCharges", False):
            for charge in self._charges_of(permission_id):
                if _state(charge) in _OPEN_CHARGES:
                    self._end_charge(charge, "Canceled", "ChargePermissionCanceled")
        return Answer(200, public(self.find("chargePermission", permission_id)))

    def _close(self, permission: Json, *reasons: str) -> Json:
        ended = objects.permission_status("Closed", self.clock(), *reasons)
        return self.put("chargePermission", permission, statusDetails=ended)

    def _charges_of(self, permission_id: str) -> list[Json]:
        return [c for c in self.every("charge") if c["chargePermissionId"] == permission_id]

    # --- charges ---

    def create_charge(self, params: Json, code: str) -> Answer:
        """Charge a buyer who agreed before."""
        permission = self.find("chargePermission", params["chargePermissionId"])
        expires = permission["_expires"]
        if expires is not None and expires <= self.clock():
            permission = self._close(permission, "Expired")
        if _state(permission) != "Chargeable":
            raise wrong_state("ChargePermission", _state(permission))
        if params.get("softDescriptor") and not params.get("captureNow", False):
            raise invalid("softDescriptor", "goes with captureNow true only")
        units = minor_units(params["chargeAmount"], "chargeAmount")
        balance = permission["limits"]["amountBalance"]
        if balance is not None:
            if balance["currencyCode"] != params["chargeAmount"]["currencyCode"]:
                raise currency_mismatch()
            if units > _units(balance):
                raise amount_exceeded("The charge is more than the Charge Permission allows.")
        if code in ("SoftDeclined", "HardDeclined", "TransactionTimedOut", "ProcessingFailure"):
            raise declined(code)
        if code == "AmazonRejected":
            self._close(permission, "AmazonCanceled")
            return _refusing(declined(code))
        if permission["_card"] in ("3434", "3064"):
            raise declined("HardDeclined")
        charge = self._charged(permission, params, objects.merchant_metadata(params), code)
        return Answer(201, public(charge))

    def _charged(self, permission: Json, params: Json, metadata: Json, code: str) -> Json:
        now = self.clock()
        charge = objects.charge(now, permission["chargePermissionId"], params, metadata)
        self._take_balance(permission, -_units(charge["chargeAmount"]))
        slow = permission["_card"] in ("0701", "4354") or code == "AuthorizationInitiated"
        if slow and params.get("canHandlePendingAuthorization", False):
            goal = "HardDeclined" if permission["_card"] == "4354" else "Authorized"
            return self.put(
                "charge",
                charge,
                statusDetails=self._status("AuthorizationInitiated"),
                _moves={"at": now + SETTLING_SECONDS, "to": goal},
            )
        return self._authorized(charge)

    def _authorized(self, charge: Json) -> Json:
        if charge["_capture_now"]:
            return self._captured(charge, _units(charge["chargeAmount"]))
        now = self.clock()
        return self.put(
            "charge",
            charge,
            statusDetails=self._status("Authorized"),
            _authorized=now,
            _moves={"at": now + objects.CHARGE_SECONDS, "to": "ExpiredUnused"},
        )

    def get_charge(self, charge_id: str) -> Answer:
        """Read a Charge."""
        return Answer(200, public(self.find("charge", charge_id)))

    def capture_charge(self, charge_id: str, params: Json, code: str) -> Answer:
        """Take an authorized amount, or a part of it; the rest is released."""
        charge = self.find("charge", charge_id)
        if _state(charge) != "Authorized":
            raise wrong_state("Charge", _state(charge))
        currency = charge["chargeAmount"]["currencyCode"]
        units = minor_units(params["captureAmount"], "captureAmount", currency)
        if units > _units(charge["chargeAmount"]):
            raise amount_exceeded("The capture is more than was authorized.")
        if code in ("AmazonRejected", "ProcessingFailure"):
            raise declined(code)
        now = self.clock()
        if code == "CaptureInitiated" or now - charge["_authorized"] > SYNCHRONOUS_CAPTURE_SECONDS:
            waiting = self.put(
                "charge",
                charge,
                statusDetails=self._status("CaptureInitiated"),
                _captured=units,
                _moves={"at": now + SETTLING_SECONDS, "to": "Captured"},
            )
            return Answer(202, public(waiting))
        return Answer(200, public(self._captured(charge, units)))

    def _captured(self, charge: Json, units: int) -> Json:
        currency = charge["chargeAmount"]["currencyCode"]
        permission = self.find("chargePermission", charge["chargePermissionId"])
        permission = self._take_balance(permission, _units(charge["chargeAmount"]) - units)
        balance = permission["limits"]["amountBalance"]
        if balance is not None and _units(balance) == 0 and _state(permission) != "Closed":
            self._close(permission)
        return self.put(
            "charge",
            _at_rest(charge),
            statusDetails=self._status("Captured"),
            captureAmount=price(units, currency),
            refundedAmount=price(0, currency),
            _captured=units,
            _posted=self.clock(),
        )

    def cancel_charge(self, charge_id: str, params: Json) -> Answer:
        """Release an authorization; doing so again changes nothing."""
        charge = self.find("charge", charge_id)
        if _state(charge) in _OPEN_CHARGES:
            charge = self._end_charge(charge, "Canceled", "MerchantCanceled")
        elif _state(charge) != "Canceled":
            raise wrong_state("Charge", _state(charge))
        return Answer(200, public(charge))

    def _end_charge(self, charge: Json, state: str, reason: str) -> Json:
        permission = self.find("chargePermission", charge["chargePermissionId"])
        self._take_balance(permission, _units(charge["chargeAmount"]))
        return self.put("charge", _at_rest(charge), statusDetails=self._status(state, reason))

    def _take_balance(self, permission: Json, change: int) -> Json:
        limits = permission["limits"]
        if limits["amountBalance"] is None or not change:
            return permission
        currency = limits["amountBalance"]["currencyCode"]
        balance = price(_units(limits["amountBalance"]) + change, currency)
        return self.put("chargePermission", permission, limits={**limits, "amountBalance": balance})

    # --- refunds ---

    def create_refund(self, params: Json, code: str) -> Answer:
        """Begin to give captured money back; how it ends is known later."""
        charge = self.find("charge", params["chargeId"])
        if _state(charge) != "Captured":
            raise wrong_state("Charge", _state(charge))
        currency = charge["chargeAmount"]["currencyCode"]
        units = minor_units(params["refundAmount"], "refundAmount", currency)
        left = charge["_captured"] - _units(charge["refundedAmount"]) - charge["_refunding"]
        if units > left:
            raise amount_exceeded("The refund is more than is left of the charge.")
        known = [r for r in self._kept["refund"].values() if r["chargeId"] == charge["chargeId"]]
        if len(known) >= REFUNDS_MAX:
            raise declined("TransactionCountExceeded")
        now = self.clock()
        goal = "AmazonRejected" if code == "RefundDeclined" else "Refunded"
        refund = self.put(
            "refund",
            objects.refund(now, charge, units, params),
            _moves={"at": now + REFUND_SECONDS, "to": goal},
        )
        self.put("charge", charge, _refunding=charge["_refunding"] + units)
        return Answer(201, public(refund))

    def get_refund(self, refund_id: str) -> Answer:
        """Read a Refund."""
        return Answer(200, public(self.find("refund", refund_id)))


def _state(item: Json) -> str:
    state: str = item["statusDetails"]["state"]
    return state


def _units(found: Json | None) -> int:
    """Read an amount the sandbox wrote itself; zero when there is none."""
    if found is None:
        return 0
    return int(found["amount"].replace(".", ""))


def _at_rest(item: Json) -> Json:
    """Answer the object without the change that time would bring."""
    return {name: value for name, value in item.items() if name != "_moves"}


def _refusing(refusal: AmazonPayRefusalError) -> Answer:
    """A refusal that changed something: an answer, because what is raised changes nothing."""
    return Answer(refusal.status, refusal.body)


def _session_canceled() -> Answer:
    return _refusing(
        AmazonPayRefusalError(422, "CheckoutSessionCanceled", "The Checkout Session is canceled.")
    )
