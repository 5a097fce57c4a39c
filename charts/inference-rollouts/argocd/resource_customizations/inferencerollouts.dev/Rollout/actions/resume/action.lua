-- One annotation, bound to the revision, attempt and step that are shown: clicked on an old page, it is rejected.
local os = require("os")
local st = obj.status or {}
local revision = (st.canary or st.stable or {}).hash
if revision == nil then
  error("the Rollout has no revision to resume yet")
end
local place = ',"attempt":' .. tostring(st.attempt or 0)
if st.currentStep ~= nil then
  place = place .. ',"step":' .. tostring(st.currentStep)
end
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["inferencerollouts.dev/command"] = '{"action":"resume","revision":"' .. revision .. '"' .. place
  .. ',"at":"' .. os.date("!%Y-%m-%dT%H:%M:%SZ") .. '","by":"argocd"}'
return obj
