-- Puts refusals into words: problem details (RFC 9457) from a google.rpc.Status, from Envoy's own
-- replies, and from strict_input.lua. All texts are handled as raw JSON, quotes included.

-- By canonical code: HTTP status, and the reason for a status without ErrorInfo.
local CODES = {
  [1] = { "499", "CANCELLED" },
  [2] = { "500", "INTERNAL" },
  [3] = { "400", "FIELD_INVALID" },
  [4] = { "504", "DEADLINE_EXCEEDED" },
  [5] = { "404", "NOT_FOUND" },
  [6] = { "409", "ALREADY_EXISTS" },
  [7] = { "403", "ACCESS_DENIED" },
  [8] = { "429", "RATE_LIMITED" },
  [9] = { "409", "FAILED_PRECONDITION" },
  [10] = { "409", "ABORTED" },
  [11] = { "400", "FIELD_INVALID" },
  [12] = { "404", "ROUTE_UNKNOWN" },
  [13] = { "500", "INTERNAL" },
  [14] = { "503", "UNAVAILABLE" },
  [15] = { "500", "INTERNAL" },
  [16] = { "401", "TOKEN_REFUSED" },
}
local STATUS_OF_REASON = { IDEMPOTENCY_KEY_REUSED = "422" }

-- By HTTP status, for Envoy's own replies: reason.
local REASONS = {
  ["400"] = "BODY_MALFORMED",
  ["401"] = "TOKEN_REFUSED",
  ["403"] = "ACCESS_DENIED",
  ["404"] = "ROUTE_UNKNOWN",
  ["408"] = "DEADLINE_EXCEEDED",
  ["413"] = "BODY_TOO_LARGE",
  ["429"] = "RATE_LIMITED",
  ["502"] = "UNAVAILABLE",
  ["503"] = "UNAVAILABLE",
  ["504"] = "DEADLINE_EXCEEDED",
}

-- By reason: what to say when nobody said it better. Never what Envoy says: that is for our logs.
local WORDS = {
  ACCESS_DENIED = {
    "The token does not allow this call.",
    "Ask for a token with the scope this route needs, from a client that is registered here.",
  },
  BODY_MALFORMED = {
    "The request is not of the documented shape.",
    "Send one JSON object with the documented fields.",
  },
  BODY_TOO_LARGE = { "The request is larger than the edge takes.", "Send less at once." },
  DEADLINE_EXCEEDED = {
    "The deadline passed; the outcome may be unknown.",
    "Repeat the call with the same idempotency key.",
  },
  INTERNAL = {
    "A fault of ours. The logs hold it under the request id.",
    "Repeat the call with the same idempotency key; if it stays, tell us the request id.",
  },
  RATE_LIMITED = { "Too many calls.", "Wait and repeat." },
  ROUTE_UNKNOWN = {
    "There is no such path and method.",
    "Check verb and path against the documentation.",
  },
  TOKEN_REFUSED = {
    "The access token is missing, expired, foreign or tampered with.",
    "Get a fresh access token and send it as Authorization: Bearer.",
  },
  UNAVAILABLE = {
    "The service can't be reached at the moment.",
    "Repeat the call with the same idempotency key.",
  },
}
local OTHERWISE = { "The call was refused.", "See the documentation of this route." }

local function quoted(text)
  return '"' .. text:gsub('[%z\1-\31\127-\255"\\]', "?") .. '"'
end

local function unquoted(raw)
  return raw and raw:match('^"(.*)"$')
end

-- Fields are named as REST spells them; headers (with a dash) and map keys stay as they are.
local function camel(raw)
  local name = unquoted(raw)
  if not name or name == "" then
    return nil
  end
  local path, rest = name:match("^([%w_%.]*)(.*)$")
  if rest:sub(1, 1) == "-" then
    return raw
  end
  local function spelt(part)
    return (part:gsub("_(%l)", string.upper):gsub("_(%d)", "%1"))
  end
  return '"' .. spelt(path) .. rest:gsub("%]%.[%w_%.]*", spelt) .. '"'
end

-- Texts name fields as the contract does; REST's readers look for its own spelling.
local function as_rest_says(raw)
  return raw and raw:gsub("%f[%w_]%l[%l%d]*_[%l%d_]*", spellings)
end

local function member(name, raw)
  return raw and ',"' .. name .. '":' .. raw or ""
end

-- problem: status, reason as plain texts; detail, field, remedy, errors, request_id as raw JSON.
local function problem_json(problem)
  local words = WORDS[problem.reason] or OTHERWISE
  local slug = problem.reason:lower():gsub("_", "-")
  local title = problem.reason:sub(1, 1) .. problem.reason:sub(2):lower():gsub("_", " ")
  return '{"type":"https://smartpay.dev/problems/' .. slug .. '","title":"' .. title
    .. '","status":' .. problem.status .. ',"reason":"' .. problem.reason .. '"'
    .. member("detail", problem.detail or quoted(words[1]))
    .. member("field", problem.field)
    .. member("remedy", problem.remedy or quoted(words[2]))
    .. ',"errors":[' .. (problem.errors or "") .. "]"
    .. member("requestId", problem.request_id)
    .. member("traceId", problem.trace_id)
    .. "}"
end

local function violations(detail)
  local errors = {}
  for _, violation in ipairs(detail.fieldViolations or {}) do
    errors[#errors + 1] = '{"field":' .. (camel(violation.field) or '""')
      .. member("detail", as_rest_says(violation.description))
      .. (unquoted(violation.reason) ~= "" and member("reason", violation.reason) or "")
      .. "}"
  end
  return table.concat(errors, ",")
end

-- From the JSON of a google.rpc.Status, as the transcoder writes it.
local function problem_of_status(text)
  local good, status = pcall(read_json, text)
  local known = CODES[good and tonumber(status.code) or 2] or CODES[2]
  local problem = { status = known[1], reason = known[2] }
  local details = good and type(status.details) == "table" and status.details or {}
  for _, detail in ipairs(details) do
    local kind = unquoted(detail["@type"]) or ""
    if kind:find("google.rpc.ErrorInfo", 1, true) then
      local reason = unquoted(detail.reason) or ""
      if reason:match("^[A-Z][A-Z0-9_]*$") then
        local facts = type(detail.metadata) == "table" and detail.metadata or {}
        problem.reason = reason
        problem.status = STATUS_OF_REASON[reason] or problem.status
        problem.detail = as_rest_says(status.message)
        problem.remedy = as_rest_says(facts.remedy)
        problem.field = camel(facts.field)
      end
    elseif kind:find("google.rpc.BadRequest", 1, true) then
      problem.errors = violations(detail)
      local first = detail.fieldViolations and detail.fieldViolations[1]
      problem.field = problem.field or first and camel(first.field)
    end
  end
  return problem
end

-- From Envoy's own reply: its status, its cause (%RESPONSE_CODE_DETAILS%) and its text.
local function problem_of_reply(status, cause, text, verb)
  local reason = REASONS[status] or (status < "500" and "BODY_MALFORMED" or "INTERNAL")
  local problem = { status = status, reason = reason }
  if cause == "lua_response" then
    local known, field, detail, remedy = text:match("^([A-Z_]+)\n([^\n]*)\n([^\n]*)\n([^\n]*)$")
    if known then
      problem.reason = known
      problem.field = field ~= "" and quoted(field) or nil
      problem.detail = quoted(field ~= "" and field .. " " .. detail or detail)
      problem.remedy = quoted(remedy)
    end
  elseif cause:find("[Jj]wks.remote.fetch") then
    problem.status, problem.reason, problem.retry_after = "503", "UNAVAILABLE", "1"
    problem.detail = quoted("The issuer's keys can't be fetched, so no token can be checked.")
    problem.remedy = quoted("Repeat the call in a moment.")
  elseif cause:find("upgrade_failed", 1, true) then
    problem.status, problem.reason = "400", "FIELD_INVALID"
    problem.field = quoted("upgrade")
    problem.detail = quoted("upgrade is not taken here.")
    problem.remedy = quoted("Send plain requests.")
  elseif problem.reason == "BODY_MALFORMED" and not cause:find("transcode", 1, true) then
    problem.reason = "FIELD_INVALID"
    problem.detail = quoted("The path or the headers are not well-formed, or too large.")
    problem.remedy = quoted("Send a plain path and only the documented headers.")
  elseif status == "400" then
    problem.reason = verb == "POST" and "BODY_MALFORMED" or "FIELD_INVALID"
    -- As the transcoder puts it: amount.minor_units: invalid value "abc" for type TYPE_INT64
    local field = text:match("^%s*([%w_%.%[%]]+): invalid value")
    if field then
      problem.field = camel('"' .. field:gsub("%[%d+%]%.value$", "") .. '"')
      problem.detail = quoted(unquoted(problem.field) .. " is not of the documented type.")
      problem.remedy = quoted("Send the type the documentation names for this field.")
    end
  end
  return problem
end
