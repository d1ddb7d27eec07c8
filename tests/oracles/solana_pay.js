// @solana/pay, the code that wallets use, as the oracle of our addresses.
//
// Reads {"urls": [...]} from standard input, writes to standard output a list of what it read of
// each, with the address it would write itself, or {"refused": why}.
"use strict";

const { encodeURL, parseURL } = require("@solana/pay");

function read(url) {
  try {
    const parsed = parseURL(url);
    return { ...parsed, again: encodeURL(parsed).toString() };
  } catch (refusal) {
    return { refused: refusal.message };
  }
}

const { urls } = JSON.parse(require("fs").readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(urls.map(read)));
