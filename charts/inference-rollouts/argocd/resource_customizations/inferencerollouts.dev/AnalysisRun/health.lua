local st = obj.status
if st == nil or st.phase == nil then
  return {status = "Progressing", message = "Waiting for the first measurement"}
end
local states = {
  Pending = "Progressing",
  Running = "Progressing",
  Successful = "Healthy",
  Failed = "Degraded",
  Error = "Degraded",
  Inconclusive = "Unknown",
}
return {status = states[st.phase] or "Unknown", message = st.message or st.phase}
