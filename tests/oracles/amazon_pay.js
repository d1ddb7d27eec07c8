// Amazon Pay's own SDK as the oracle of our signatures and of our simulator.
//
// Reads one JSON object from standard input, writes one to standard output.
//   {"do": "sign", "config": {...}, "requests": [{method, urlFragment, payload, headers, queryParams}]}
//     answers the signed headers of each, and the canonical request the SDK hashed for it.
//   {"do": "drive", "config": {...}, "url": "...", "storeId": "..."}
//     takes a payment through its life against a simulator, by the SDK's own methods.
"use strict";

const axios = require("axios");
const crypto = require("crypto");
const sdk = require("@amazonpay/amazon-pay-api-sdk-nodejs");

function sign({ config, requests }) {
  const client = new sdk.AmazonPayClient(config);
  return requests.map((request) => {
    const hashed = [];
    const original = crypto.createHash;
    crypto.createHash = (name) => {
      const hash = original(name);
      const update = hash.update.bind(hash);
      hash.update = (text) => {
        hashed.push(text.toString());
        return update(text);
      };
      return hash;
    };
    try {
      const headers = client.getSignedHeaders({ ...request });
      return { headers, canonical: hashed.find((text) => text.startsWith(`${request.method}\n`)) };
    } finally {
      crypto.createHash = original;
    }
  });
}

async function drive({ config, url, storeId }) {
  // The SDK speaks https to Amazon only; everything else of a request stays its own.
  const original = axios.request.bind(axios);
  axios.request = (options) =>
    original({ ...options, url: options.url.replace("https://pay-api.amazon.com", url) });
  const client = new sdk.WebStoreClient(config);
  const key = (name) => ({ "x-amz-pay-idempotency-key": name });
  const amount = { amount: "19.99", currencyCode: "USD" };
  const seen = {};

  const created = await client.createCheckoutSession(
    {
      webCheckoutDetails: {
        checkoutMode: "ProcessOrder",
        checkoutResultReturnUrl: "https://shop.test/return",
      },
      storeId,
      paymentDetails: {
        paymentIntent: "Authorize",
        canHandlePendingAuthorization: false,
        chargeAmount: amount,
      },
      merchantMetadata: { merchantReferenceId: "order-1", noteToBuyer: "Zwölf Stühle" },
    },
    key("session"),
  );
  seen.created = created.status;
  const session = created.data.checkoutSessionId;
  await fetch(`${created.data.webCheckoutDetails.amazonPayRedirectUrl}/agree`, { method: "POST" });
  const completed = await client.completeCheckoutSession(session, { chargeAmount: amount });
  seen.completed = [completed.status, completed.data.statusDetails.state];
  seen.reread = (await client.getCheckoutSession(session)).data.statusDetails.state;
  const charge = completed.data.chargeId;
  const permission = completed.data.chargePermissionId;
  seen.charge = (await client.getCharge(charge)).data.statusDetails.state;
  const captured = await client.captureCharge(
    charge,
    { captureAmount: { amount: "15.00", currencyCode: "USD" } },
    key("capture"),
  );
  seen.captured = captured.data.captureAmount;
  const refund = await client.createRefund(
    { chargeId: charge, refundAmount: { amount: "5.00", currencyCode: "USD" } },
    key("refund"),
  );
  seen.refund = [refund.status, refund.data.statusDetails.state];
  seen.refundRead = (await client.getRefund(refund.data.refundId)).data.refundAmount;
  seen.balance = (await client.getChargePermission(permission)).data.limits.amountBalance;
  const closed = await client.closeChargePermission(permission, { closureReason: "done" });
  seen.closed = closed.data.statusDetails.state;
  seen.refused = await client
    .cancelCharge(charge, { cancellationReason: "late" })
    .then(() => null, (error) => [error.response.status, error.response.data.reasonCode]);
  return seen;
}

const read = [];
process.stdin.on("data", (part) => read.push(part));
process.stdin.on("end", async () => {
  const asked = JSON.parse(Buffer.concat(read).toString());
  const answer = asked.do === "sign" ? sign(asked) : await drive(asked);
  process.stdout.write(JSON.stringify(answer));
});
