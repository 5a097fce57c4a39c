-- An action is offered exactly when the controller would obey it: rollouts/engine/commanding.py, tested against it.
local st = obj.status or {}
local hold = (st.hold or {}).reason or ""
local live = obj.metadata.deletionTimestamp == nil
local split = hold == "SplitAtStart" or hold == "UnmatchedPods"
local moving = live and st.canary ~= nil and st.aborted == nil
local started = moving and st.startedAt ~= nil

-- What raises weight or goes on needs a sound spec and a traffic object that is this Rollout's.
local free = live
for _, c in ipairs(st.conditions or {}) do
  if c.type == "SpecValid" and c.status == "False" then free = false end
  if c.type == "TrafficApplied" and c.reason == "ClaimedByOther" then free = false end
end

local resumable = {
  PausedByCommand = true,
  ManualOverride = true,
  TrafficContended = true,
  ProgressDeadlineExceeded = true,
}
local overridable = {GateFailed = true, GateInconclusive = true, ProgressDeadlineExceeded = true}
local canary = ((obj.spec or {}).strategy or {}).canary or {}
local step = (canary.steps or {})[(st.currentStep or 0) + 1]
local leavable = false
if step == nil then
  leavable = st.bakeStartedAt ~= nil
else
  leavable = step.pause ~= nil or step.analysis ~= nil or step.job ~= nil
end
local promotable = started and (overridable[hold] or (hold == "" and leavable))

local function action(enabled, name, icon)
  return {disabled = not enabled, displayName = name, iconClass = "fa fa-fw fa-" .. icon}
end

local actions = {}
actions["promote"] = action(free and (split or promotable), "Promote", "forward-step")
actions["promote-full"] = action(free and (split or started), "Promote full", "forward-fast")
actions["abort"] = action(moving, "Abort", "rotate-left")
actions["retry"] = action(free and st.canary ~= nil and st.aborted ~= nil, "Retry", "redo")
actions["pause"] = action(moving and hold == "", "Pause", "pause")
actions["resume"] = action(free and resumable[hold] ~= nil, "Resume", "play")
return actions
