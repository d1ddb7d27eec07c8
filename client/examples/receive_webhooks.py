"""Hears of a payment by a webhook, checks that it is genuine, then looks at the books."""

import csv
import queue
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from smartpay_client import CaptureMethod, Client, Money, WebhookEvent, WebhookRefused, webhooks

CARD = {"pac_d1mmzd9hq73ytxj4ps4c29ac6f": "pm_card_visa"}
secrets: list[str] = []
events: queue.Queue[WebhookEvent] = queue.Queue()


class Receiver(BaseHTTPRequestHandler):
    """The merchant's own endpoint."""

    def do_POST(self) -> None:
        """Takes an event if it is genuine; the sender comes again until it hears 2xx."""
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            events.put(webhooks.verify(secrets, dict(self.headers), body))
            self.send_response(204)
        except WebhookRefused:
            self.send_response(400)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


server = HTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()

with Client.from_environment() as client:
    endpoint = client.webhook_endpoints.create(
        # Elsewhere than in development it must be https and public.
        f"http://127.0.0.1:{server.server_port}/events",
        event_types=["smartpay.payment.succeeded.v1"],
    )
    secrets.append(endpoint.secret)  # shown this once
    payment = client.payments.create(
        amount=Money(1500, "USD"), instrument=CARD, capture_method=CaptureMethod.AUTOMATIC
    )
    while (event := events.get(timeout=60)).subject != payment.payment_id:
        pass
    print(f"heard: {event.type} of {event.payment.captured_amount.minor_units}")
    client.webhook_endpoints.delete(endpoint.webhook_endpoint_id)

    balances = client.ledger.balances(currency_code="USD")
    print("all balances sum to", sum(balance.amount.minor_units for balance in balances))
    rows = client.exports.payments("CSV", status="SUCCEEDED", create_time_from=payment.create_time)
    table = list(csv.DictReader(row.decode() for row in rows))
    print("exported:", payment.payment_id in {row["payment_id"] for row in table})
    last = next(client.audit.list(action="WebhookEndpointsService.CreateWebhookEndpoint"))
    print("audited:", last.subject_id == endpoint.webhook_endpoint_id)
server.shutdown()
server.server_close()
