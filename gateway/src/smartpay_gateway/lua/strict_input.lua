-- Refuses what the contract does not know, before the transcoder would drop it silently: other
-- paths, unknown and repeated fields, query parameters that repeat or replace what path and body
-- say. Decided by path, never by content type: the transcoder ignores the content type too.
local literal_routes, variable_routes = {}, {}
for _, route in ipairs(routes) do
  if route.pattern:find("(", 1, true) then
    variable_routes[#variable_routes + 1] = route
  else
    local path = route.pattern:sub(2, -2):gsub("%%(.)", "%1")
    literal_routes[route.verb .. " " .. path] = route
  end
end

local function find_route(verb, path)
  local route = literal_routes[verb .. " " .. path]
  if route then
    return route
  end
  for _, candidate in ipairs(variable_routes) do
    if candidate.verb == verb and path:find(candidate.pattern) then
      return candidate
    end
  end
  return nil
end

-- Every call has a trace: the caller's, or one made of the request's id, a random UUID. Where
-- spans are collected the router writes its own over it, but would hand a broken one on as it is.
local function see_to_trace(headers)
  local trace = headers:get("traceparent")
  if not (trace and #trace == 55 and trace:match("^%x%x%-%x+%-%x+%-%x%x$")) then
    local id = headers:get("x-request-id"):gsub("-", "")
    headers:replace("traceparent", "00-" .. id .. "-" .. id:sub(17) .. "-00")
  end
end

-- answer.lua turns these four lines into a problem; native gRPC reads them as its message.
local function refuse(handle, status, reason, field, detail, remedy, allow)
  local native = is_native(handle:headers():get("content-type"))
  handle:respond(
    { [":status"] = status, allow = allow },
    native and reason .. ": " .. detail
      or table.concat({ reason, field, detail, remedy }, "\n")
  )
end

local function percent_decoded(text)
  return text:find("%", 1, true) and (text:gsub("%%(%x%x)", function(hex)
    return string.char(tonumber(hex, 16))
  end)) or text
end

-- Services can't read other text: protobuf's texts are UTF-8.
local function is_utf8(text)
  if not text:find("[\128-\255]") then
    return true
  end
  local rest = text
    :gsub("[\194-\223][\128-\191]", "?")
    :gsub("\224[\160-\191][\128-\191]", "?")
    :gsub("\237[\128-\159][\128-\191]", "?")
    :gsub("[\225-\236\238\239][\128-\191][\128-\191]", "?")
    :gsub("\240[\144-\191][\128-\191][\128-\191]", "?")
    :gsub("[\241-\243][\128-\191][\128-\191][\128-\191]", "?")
    :gsub("\244[\128-\143][\128-\191][\128-\191]", "?")
  return not rest:find("[\128-\255]")
end

local function check_query(route, query)
  local seen = {}
  for part in query:gmatch("[^&]+") do
    local key = percent_decoded(part:match("^[^=]*"))
    local parameter = route.query[key]
    if route.bound[key] then
      return printable(key), "is part of the path.", "Leave it out of the query string."
    elseif not parameter then
      return printable(key), "is no query parameter of this route.", "Leave it out."
    elseif seen[parameter.name] and not parameter.repeated then
      return parameter.name, "is given twice.", "Give it once."
    end
    seen[parameter.name] = true
  end
  return nil
end

local function check_body(route, text)
  if not route.shape then
    return "", "This route takes no body.", "Leave the body out."
  end
  local good, body = pcall(read_json, text, shapes[route.shape])
  if not good then
    if type(body) ~= "table" then
      error(body, 0)
    end
    return body.field, body.detail, "Send one JSON object with the documented fields, each once."
  end
  for name in pairs(route.bound) do
    if body[name] ~= nil then
      return name, "is part of the path.", "Leave it out of the body."
    end
  end
  return nil
end

local function check(handle)
  local headers = handle:headers()
  see_to_trace(headers)
  local path, query = headers:get(":path"), ""
  local mark = path:find("?", 1, true)
  if mark then
    path, query = path:sub(1, mark - 1), path:sub(mark + 1)
  end
  if native_paths[path] and is_native(headers:get("content-type")) then
    return
  end
  local route = find_route(headers:get(":method"), path)
  if not route then
    local verbs = not is_native(headers:get("content-type")) and verbs_of(path)
    if verbs then
      return refuse(
        handle, "405", "ROUTE_UNKNOWN", "", "This path does not take that verb.",
        "Use " .. verbs .. ".", verbs
      )
    end
    return refuse(
      handle, "404", "ROUTE_UNKNOWN", "", "There is no such path and method.",
      "Check verb and path against the documentation."
    )
  end
  if not is_utf8(percent_decoded(path .. "?" .. query)) then
    return refuse(
      handle, "400", "FIELD_INVALID", "", "The path or the query string is no UTF-8.",
      "Percent-encode texts as UTF-8."
    )
  end
  local field, detail, remedy = check_query(route, query)
  if field then
    return refuse(handle, "400", "FIELD_INVALID", field, detail, remedy)
  end
  if route.raw then
    return
  end
  local body = handle:body()
  local size = body and body:length() or 0
  if size > BODY_BYTES then
    return refuse(
      handle, "413", "BODY_TOO_LARGE", "", "The body is larger than " .. BODY_BYTES .. " bytes.",
      "Send less at once."
    )
  elseif size > 0 then
    field, detail, remedy = check_body(route, body:getBytes(0, size))
    if detail then
      refuse(handle, "400", "BODY_MALFORMED", field, detail, remedy)
    end
  end
end

-- Envoy lets a request pass whose script failed; ours is refused.
function envoy_on_request(handle)
  local good, problem = pcall(check, handle)
  if not good then
    handle:logErr(tostring(problem))
    handle:respond({ [":status"] = "500" }, "")
  end
end
