-- The controller keeps phase and message true; this only waits until it has seen the spec, and translates.
local hs = {status = "Progressing", message = "Waiting for the controller to report status"}
local st = obj.status
if st == nil or st.phase == nil then
  return hs
end
if tonumber(st.observedGeneration) ~= tonumber(obj.metadata.generation) then
  hs.message = "Waiting for the new spec to be observed"
  return hs
end
local states = {
  Healthy = "Healthy",
  Progressing = "Progressing",
  WaitingForTarget = "Progressing",
  Paused = "Suspended",
  Aborted = "Degraded",
  Invalid = "Degraded",
}
hs.status = states[st.phase] or "Unknown"
hs.message = st.message or st.phase
for _, c in ipairs(st.conditions or {}) do
  -- Nobody serves, or a person has to act: in whichever phase that is, it is no progress.
  if c.type == "Stalled" and c.status == "True" then
    hs.status = "Degraded"
    hs.message = c.message or hs.message
  end
end
return hs
