-- KServe says Ready=False while pods start as well, so that it is waited for, and fails no sync. A stopped member is
-- meant to be: whatever else than Healthy it were, a sync would wait for it for ever.
local st = obj.status or {}
local annotations = obj.metadata.annotations or {}
if annotations["serving.kserve.io/stop"] == "true" then
  return {status = "Healthy", message = "stopped: it gets no requests, and keeps its weight"}
end
if st.observedGeneration ~= nil and tonumber(st.observedGeneration) < tonumber(obj.metadata.generation or 0) then
  return {status = "Progressing", message = "Waiting for KServe to look at the new spec"}
end
for _, c in ipairs(st.conditions or {}) do
  if c.type == "Ready" then
    if c.status == "True" then
      return {status = "Healthy", message = ""}
    end
    return {status = "Progressing", message = "Ready: " .. (c.message or c.reason or c.status)}
  end
end
return {status = "Progressing", message = "Waiting for KServe"}
