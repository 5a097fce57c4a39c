-- A pool that no route refers to yet has no parents, by definition of the API: it counts as healthy, else a
-- sync wave with the pool would wait for the route of the next wave. v1alpha2 shows a placeholder parent.
local st = obj.status or {}
for _, parent in ipairs(st.parents or st.parent or {}) do
  local placeholder = (parent.parentRef or {}).kind == "Status"
  for _, c in ipairs(parent.conditions or {}) do
    if (c.type == "Accepted" or c.type == "ResolvedRefs") and not placeholder then
      if c.observedGeneration ~= nil and tonumber(c.observedGeneration) < tonumber(obj.metadata.generation) then
        return {status = "Progressing", message = "Waiting for " .. c.type .. " of the new spec"}
      end
      if c.status ~= "True" then
        local state = "Progressing"
        if c.status == "False" then
          state = "Degraded"
        end
        return {status = state, message = c.type .. ": " .. (c.message or c.reason or c.status)}
      end
    end
  end
end
return {status = "Healthy", message = ""}
