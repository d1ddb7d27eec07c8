-- Shapes what a REST caller gets: the status the service asked for, the one field the contract
-- names as the body (Envoy's transcoder leaves response_body to us), and problems as JSON.
-- Native gRPC passes as it is. Every step into Envoy costs about as much as reading a field of
-- JSON, so what is rare is asked for only where it can be.

-- What the router notes on each answer: request id, collected trace, rpc, the verb before
-- transcoding (empty when there was none), the verb since, the request's trace. Absent where Envoy
-- refuses outside of a route.
local function read_note(note)
  local call = { note = note or "" }
  call.rpc, call.rest_verb = call.note:match("^[^|]*|[^|]*|([^|]*)|([^|]*)|")
  call.transcoded = call.rest_verb ~= nil and call.rest_verb ~= ""
  return call
end

local function request_id_of(call)
  return call.note:match("^(%x[%x%-]*)|")
end

-- The tracer's, where spans are collected; else the caller's, or what strict_input.lua makes.
local function trace_id_of(call, request_id)
  local given = call.note:match("|([^|]*)$")
  return call.note:match("^[^|]*|(%x+)|")
    or given and #given == 55 and given:match("^%x%x%-(%x+)%-%x+%-%x%x$")
    or request_id and request_id:gsub("-", "")
end

local function verb_of(call)
  return call.transcoded and call.rest_verb or call.note:match("^[^|]*|[^|]*|[^|]*||([^|]*)|")
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

local function write_problem(handle, problem, call)
  local request_id = request_id_of(call)
  local trace_id = trace_id_of(call, request_id)
  problem.request_id = request_id and quoted(request_id)
  problem.trace_id = trace_id and quoted(trace_id)
  -- An answer to HEAD has no body: one would be read as the start of the next answer.
  if verb_of(call) ~= "HEAD" then
    replace_body(handle, problem_json(problem))
  end
  local headers = handle:headers()
  headers:replace(":status", problem.status)
  headers:replace("content-type", "application/problem+json")
  if problem.retry_after then
    headers:replace("retry-after", problem.retry_after)
  end
end

-- A costly route tells its own limit before the client's; one number is what clients can read.
local function tell_one_limit(headers)
  if headers:getNumValues("x-ratelimit-limit") > 1 then
    for _, name in ipairs({ "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset" }) do
      headers:replace(name, headers:getAtIndex(name, 0))
    end
  end
end

-- What only gRPC's readers understand; the transcoder passes it on.
local function remove_grpc(headers)
  headers:remove("grpc-status")
  headers:remove("grpc-message")
  headers:remove("grpc-status-details-bin")
end

local function unwrap(handle, opening)
  local text = body_text(handle)
  if text:sub(1, #opening) == opening then
    replace_body(handle, text:sub(#opening + 1, -2))
  end
end

local function shape_answer(handle, headers, call)
  local asked = headers:get("x-http-status")
  if asked then
    headers:remove("x-http-status")
    if asked:match("^20[0-9]$") then
      headers:replace(":status", asked)
    end
  end
  local rpc = call.transcoded and rpcs[call.rpc]
  if not rpc then
    return
  end
  -- Events say what they are; one JSON per line is what else the transcoder makes of a stream.
  if rpc.stream and headers:get("content-type") == "application/json" then
    headers:replace("content-type", "application/x-ndjson")
  end
  if rpc.opening then
    unwrap(handle, rpc.opening)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local call = read_note(headers:get("x-call"))
  headers:remove("x-call")
  tell_one_limit(headers)
  local status = headers:get(":status")
  local cause = status >= "400" and headers:get("x-local-reply")
  if cause then
    headers:remove("x-local-reply")
  end
  if not call.transcoded and is_native(headers:get("content-type")) then
    return
  end
  remove_grpc(headers)
  if cause then
    local problem = problem_of_reply(status, cause, body_text(handle), verb_of(call))
    write_problem(handle, problem, call)
  elseif status >= "400" then
    headers:remove("x-http-status")
    write_problem(handle, problem_of_status(body_text(handle)), call)
  else
    shape_answer(handle, headers, call)
  end
  -- Waits for the end without holding the pieces before it back.
  local trailers = handle:trailers()
  if trailers then
    remove_grpc(trailers)
    -- Never empty: Envoy 1.40 then has no flush timeout, and who stops reading holds the answer.
    trailers:replace("x-request-id", request_id_of(call) or "none")
  end
end
