-- Health of a DatabaseRestore and of a DatabaseRestoreSchedule for Argo CD, by their conditions.
-- The same script serves both kinds (docs/gitops.md).
local function health(status, message)
  return { status = status, message = message }
end

local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "waits for the operator")
end

local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end

local function is(kind, value)
  return found[kind] ~= nil and found[kind].status == value
end

if is("Stalled", "True") then
  return health("Degraded", found.Stalled.message)
end

if obj.kind == "DatabaseRestoreSchedule" then
  if obj.spec.suspend then
    return health("Suspended", found.Ready.message)
  end
  -- As Argo CD does it with a CronJob: the last run speaks for the schedule.
  if is("LastRestoreSucceeded", "False") then
    return health("Degraded", found.LastRestoreSucceeded.message)
  end
  if is("Ready", "True") then
    return health("Healthy", found.Ready.message)
  end
  return health("Progressing", "waits for the operator")
end

if is("Ready", "True") then
  return health("Healthy", found.Ready.message)
end
if status.phase == "Suspended" then
  return health("Suspended", status.message)
end
return health("Progressing", status.message)
