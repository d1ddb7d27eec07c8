-- The verbs a path takes, for who came with another one (RFC 9110, 15.5.6); nil when it takes none.
local function verbs_of(path)
  local verbs, known = {}, {}
  for _, route in ipairs(routes) do
    if not known[route.verb] and path:find(route.pattern) then
      known[route.verb] = true
      verbs[#verbs + 1] = route.verb
    end
  end
  table.sort(verbs)
  return verbs[1] and table.concat(verbs, ", ")
end
