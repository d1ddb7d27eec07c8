-- Shapes what a REST caller gets: the status the service asked for, the one field the contract
-- names as the body (Envoy's transcoder leaves response_body to us), and problems as JSON.
-- Native gRPC passes as it is.
local function noted(handle, name)
  local notes = handle:streamInfo():dynamicMetadata():get("smartpay.rest")
  return notes and notes[name]
end

local function replace_body(handle, text)
  -- body() suspends the script: headers taken before are dead, so they are asked for again.
  local body = handle:body(true)
  body:setBytes(text)
  handle:headers():replace("content-length", tostring(#text))
end

local function body_text(handle)
  local body = handle:body(true)
  return body:length() > 0 and body:getBytes(0, body:length()) or ""
end

local function write_problem(handle, problem, trace_id, request_id)
  request_id = noted(handle, "request_id") or request_id
  problem.request_id = request_id and quoted(request_id)
  problem.trace_id = trace_id and trace_id:match("^%x+$") and quoted(trace_id)
  -- An answer to HEAD has no body: one would be read as the start of the next answer.
  if not noted(handle, "head") then
    replace_body(handle, problem_json(problem))
  end
  local headers = handle:headers()
  headers:replace(":status", problem.status)
  headers:replace("content-type", "application/problem+json")
  if problem.retry_after then
    headers:replace("retry-after", problem.retry_after)
  end
end

-- What the access log may show of a path: none that holds digits like those of a card.
local function loggable(path)
  path = path:match("^[^?]*")
  local digits = path:gsub("%%%x%x", ""):gsub("[%-%+%._ ]", "")
  return digits:find(("%d"):rep(12)) and "(digits)" or path
end

-- A broken trace is restarted by the next hop; Envoy's tracer would hand it on as it is.
local function drop_broken_trace(headers)
  local trace = headers:get("traceparent")
  if trace and not (#trace == 55 and trace:match("^%x%x%-%x+%-%x+%-%x%x$")) then
    headers:remove("traceparent")
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  drop_broken_trace(headers)
  local notes = handle:streamInfo():dynamicMetadata()
  notes:set("smartpay.rest", "stage", "headers")
  notes:set("smartpay.rest", "path", loggable(headers:get(":path")))
  notes:set("smartpay.rest", "request_id", headers:get("x-request-id") or "")
  if headers:get(":method") == "HEAD" then
    notes:set("smartpay.rest", "head", true)
  end
  if is_native(headers:get("content-type")) then
    notes:set("smartpay.rest", "native", true)
  end
end

-- A costly route tells its own limit before the client's; one number is what clients can read.
local function tell_one_limit(headers)
  for _, name in ipairs({ "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset" }) do
    if headers:getNumValues(name) > 1 then
      headers:replace(name, headers:getAtIndex(name, 0))
    end
  end
end

-- What only gRPC's readers understand; the transcoder passes it on.
local function remove_grpc(headers)
  for _, name in ipairs({
    "grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-accept-encoding",
  }) do
    headers:remove(name)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  tell_one_limit(headers)
  -- What Envoy refuses by itself may never have met envoy_on_request.
  local request_id, cause = (headers:get("x-local-reply") or ""):match("^([^|]*)|(.*)$")
  request_id = request_id and request_id:match("^%x[%x%-]*$")
  local trace_id = headers:get("x-trace-id")
  headers:remove("x-local-reply")
  headers:remove("x-trace-id")
  if noted(handle, "native") then
    return
  end
  local asked = headers:get("x-http-status")
  headers:remove("x-http-status")
  remove_grpc(headers)
  local status = headers:get(":status")
  if cause then
    local stage = noted(handle, "stage")
    local problem = problem_of_reply(status, cause, body_text(handle), stage)
    write_problem(handle, problem, trace_id, request_id)
  elseif status >= "400" then
    write_problem(handle, problem_of_status(body_text(handle)), trace_id)
  else
    if asked and asked:match("^20[0-9]$") then
      headers:replace(":status", asked)
    end
    -- Events say what they are; one JSON per line is what else the transcoder makes of a stream.
    if noted(handle, "stream") and headers:get("content-type") == "application/json" then
      headers:replace("content-type", "application/x-ndjson")
    end
    local field = noted(handle, "unwrap")
    if field then
      local text = body_text(handle)
      local prefix = '{"' .. field .. '":'
      if text:sub(1, #prefix) == prefix then
        replace_body(handle, text:sub(#prefix + 1, -2))
      end
    end
  end
  -- Waits for the end without holding the pieces before it back.
  local trailers = handle:trailers()
  if trailers then
    remove_grpc(trailers)
    -- Envoy 1.40 sets an unread answer no flush timeout when its trailers are empty.
    trailers:replace("x-request-id", noted(handle, "request_id") or "")
    -- Never empty: Envoy 1.40 then has no flush timeout, and who stops reading holds the answer.
    trailers:add("x-request-id", noted(handle, "request_id") or "")
  end
end
