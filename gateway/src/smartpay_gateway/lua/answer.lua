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

local function write_problem(handle, problem)
  problem.request_id = noted(handle, "request_id")
  problem.request_id = problem.request_id and quoted(problem.request_id)
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

function envoy_on_request(handle)
  local headers = handle:headers()
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

function envoy_on_response(handle)
  local headers = handle:headers()
  local cause = headers:get("x-local-reply")
  headers:remove("x-local-reply")
  if noted(handle, "native") then
    return
  end
  local asked = headers:get("x-http-status")
  for _, name in ipairs({ "x-http-status", "grpc-status", "grpc-message", "grpc-accept-encoding" }) do
    headers:remove(name)
  end
  local status = headers:get(":status")
  if cause then
    write_problem(handle, problem_of_reply(status, cause, body_text(handle), noted(handle, "stage")))
  elseif status >= "400" then
    write_problem(handle, problem_of_status(body_text(handle)))
  else
    if asked and asked:match("^20[0-9]$") then
      headers:replace(":status", asked)
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
end
