local st = obj.status or {}
local phase = st.phase or ""
local hold = (st.hold or {}).reason or ""
local moving = st.canary ~= nil and st.aborted == nil
local split = hold == "SplitAtStart"
local resumable = {
  PausedByCommand = true,
  ManualOverride = true,
  TrafficContended = true,
  ProgressDeadlineExceeded = true,
}
local started = moving and (phase == "Progressing" or phase == "Paused")

local actions = {}
actions["promote"] = {disabled = not (started or split), displayName = "Promote", iconClass = "fa fa-fw fa-forward-step"}
actions["promote-full"] = {disabled = not (started or split), displayName = "Promote full", iconClass = "fa fa-fw fa-forward-fast"}
actions["abort"] = {disabled = not moving, displayName = "Abort", iconClass = "fa fa-fw fa-rotate-left"}
actions["retry"] = {disabled = st.aborted == nil or st.canary == nil, displayName = "Retry", iconClass = "fa fa-fw fa-redo"}
actions["pause"] = {disabled = not moving or hold ~= "" or phase == "Invalid", displayName = "Pause", iconClass = "fa fa-fw fa-pause"}
actions["resume"] = {disabled = resumable[hold] == nil, displayName = "Resume", iconClass = "fa fa-fw fa-play"}
return actions
