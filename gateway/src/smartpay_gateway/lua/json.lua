-- Reads strict JSON (RFC 8259): Envoy's own reader takes bare keys, single quotes and trailing
-- commas, so whatever is checked here must be refused when it is not JSON.
-- Texts and numbers stay as they are written: what is not unescaped needs no escaping again.
local DEPTH = 32 -- ours nest four deep; each level costs a stack frame

local function malformed(field, detail)
  error({ field = field, detail = detail }, 0)
end

local function joined(path, name)
  return path == "" and name or path .. "." .. name
end

local function printable(key)
  return (key:sub(1, 64):gsub('[%z\1-\31\127-\255"\\]', "?"))
end

local function skip_space(text, at)
  return text:match("^[ \t\r\n]*()", at)
end

local function read_text(text, at, path)
  local plain, after = text:match('^("[^%z\1-\31"\\]*")()', at)
  if plain then
    return plain, after
  end
  local from = at + 1
  while true do
    local stop = text:find('[%z\1-\31"\\]', from)
    local byte = stop and text:byte(stop)
    if byte == 34 then
      return text:sub(at, stop), stop + 1
    elseif byte == 92 then
      from = text:match('^["\\/bfnrt]()', stop + 1) or text:match("^u%x%x%x%x()", stop + 1)
    else
      from = nil
    end
    if not from then
      malformed(path, "holds a text that does not end or is not escaped as JSON asks.")
    end
  end
end

local function read_number(text, at, path)
  local stop = text:match("^%-?0()", at) or text:match("^%-?[1-9]%d*()", at)
  if not stop then
    malformed(path, "is no JSON value.")
  end
  stop = text:match("^%.%d+()", stop) or stop
  stop = text:match("^[eE][+-]?%d+()", stop) or stop
  return text:sub(at, stop - 1), stop
end

local read_value

-- A key with its colon. Plain ones are read at once; others with care, or refused with a reason.
local function read_key(text, at, path)
  local key, value = text:match('^"([%w_]*)"[ \t\r\n]*:[ \t\r\n]*()', at)
  if key then
    return key, value
  elseif text:byte(at) ~= 34 then
    malformed(path, (path == "" and "The body" or "") .. " has a key that is no JSON text.")
  end
  local raw, stop = read_text(text, at, path)
  return raw:sub(2, -2), text:match("^[ \t\r\n]*:[ \t\r\n]*()", stop)
end

-- shape: the fields a message may have, nil when anything goes, and then texts are kept. map:
-- keys are free, values are of that shape.
local function read_object(text, at, shape, map, path, depth)
  local members = {}
  at = skip_space(text, at + 1)
  if text:byte(at) == 125 then
    return members, at + 1
  end
  while true do
    local key
    key, at = read_key(text, at, path)
    local name, child, child_map, list = key, nil, false, nil
    if map then
      child = shape
    elseif shape then
      local field = shape[key]
      if not field then
        malformed(joined(path, printable(key)), "is no field of this request.")
      end
      name, child, child_map, list = field.name, shapes[field.shape], field.map, field.list
    end
    local here = joined(path, map and printable(name) or name)
    if members[name] ~= nil then
      malformed(here, "is given twice.")
    elseif not at then
      malformed(here, "has no value.")
    end
    local byte = text:byte(at)
    -- Envoy takes a single object for a list of them.
    if list ~= nil and byte ~= 110 and (byte == 91) ~= list then
      malformed(here, list and "must be a list." or "must not be a list.")
    end
    local mark, stop
    if shape and byte == 34 then
      -- A plain text, and all that is asked is whether it may stand here.
      mark, stop = text:match('^"[^%c"\\]*"[ \t\r\n]*([,}])[ \t\r\n]*()', at)
    end
    if mark then
      members[name], at = true, stop
    else
      members[name], at = read_value(text, at, child, child_map, here, depth + 1)
      mark, at = text:match("^[ \t\r\n]*([,}])[ \t\r\n]*()", at)
    end
    if mark == "}" then
      return members, at
    elseif not mark then
      malformed(here, "is not followed by a comma or the end of its object.")
    end
  end
end

local function read_array(text, at, shape, path, depth)
  local items = {}
  at = skip_space(text, at + 1)
  if text:byte(at) == 93 then
    return items, at + 1
  end
  while true do
    local here = path .. "[" .. #items .. "]"
    items[#items + 1], at = read_value(text, at, shape, false, here, depth + 1)
    at = skip_space(text, at)
    local byte = text:byte(at)
    if byte == 93 then
      return items, at + 1
    elseif byte ~= 44 then
      malformed(here, "is not followed by a comma or the end of its list.")
    end
    at = skip_space(text, at + 1)
  end
end

local LITERALS = { [102] = "false", [110] = "null", [116] = "true" }

read_value = function(text, at, shape, map, path, depth)
  if depth > DEPTH then
    malformed(path, "is nested too deep.")
  end
  local byte = text:byte(at)
  if byte == 123 then
    return read_object(text, at, shape, map, path, depth)
  elseif byte == 91 then
    return read_array(text, at, shape, path, depth)
  elseif byte == 34 then
    return read_text(text, at, path)
  elseif LITERALS[byte] then
    local word = LITERALS[byte]
    if text:sub(at, at + #word - 1) == word then
      return word, at + #word
    end
  end
  return read_number(text, at, path)
end

-- Reads one object and nothing after it; raises {field, detail}.
local function read_json(text, shape)
  local at = skip_space(text, 1)
  if text:byte(at) ~= 123 then
    malformed("", "The body is no JSON object.")
  end
  local value
  value, at = read_object(text, at, shape, false, "", 1)
  if skip_space(text, at) <= #text then
    malformed("", "The body goes on after its JSON object.")
  end
  return value
end
