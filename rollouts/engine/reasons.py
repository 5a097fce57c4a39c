"""Every reason that a status, a condition or an Event may give: what it means, and what to do about it.

They are words for people and for what alerts on them: nothing is decided by one that was printed. The reference's
table is generated from this module.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

__all__ = ["Printed", "Reason", "printed"]

Printed = NewType("Printed", str)
"""A reason that was stored, perhaps by another version, which may know others."""


class Reason(StrEnum):
    """A constant in UpperCamelCase with a sentence, and what to do where there is something to do."""

    meaning: str
    remedy: str

    def __new__(cls, value: str, meaning: str = "", remedy: str = "") -> Reason:
        """One member."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.remedy = meaning, remedy
        return member

    # fmt: off
    # A Rollout at rest
    INITIALIZED = "Initialized", "The target was found serving, or nothing else was: it is the stable version."
    TARGET_IS_STABLE = "TargetIsStable", "The version that the spec asks for is stable and has all traffic."
    PROMOTED = "Promoted", "The last attempt went through: its version is stable now."
    # An attempt that waits to begin
    POOL_MISSING = ("PoolMissing", "The InferencePool that the target names does not exist.",
        "Create it, or correct the name.")
    AMBIGUOUS_TARGET = ("AmbiguousTarget", "Both API groups have an InferencePool of the target's name.",
        "Say which in target.pool.group.")
    TARGET_NOT_READY = ("TargetNotReady", "The target has fewer Ready endpoints than its first weight needs.",
        "Scale it up, or wait.")
    TARGET_SETTLING = ("TargetSettling",
        "The version could not serve until now: gateways get three seconds to hear that it can.")
    PICKER_MISSING = ("PickerMissing",
        "The Service of the pool's endpoint picker does not exist, so no request arrives.", "Install the picker.")
    PICKER_NOT_READY = ("PickerNotReady", "No pod of the pool's endpoint picker is Ready or answers health checks.",
        "Look at the picker's pods.")
    PICKER_DIALECT = ("PickerDialect", "The endpoint picker does not read the object that carries the weights.",
        "Use a picker that reads it, as ours does.")
    PICKER_BEHIND = ("PickerBehind", "A replica of the endpoint picker goes by other weights than the stored ones.",
        "Read its log; when its pod is deleted, the next one reads them anew.")
    POOL_REFUSED = ("PoolRefused", "A gateway of the route refuses the pool.",
        "Read the gateway's words in the message; they name the field.")
    BACKEND_MISSING = ("BackendMissing", "A rule of the adopted route does not list the new pool.",
        "Add the backendRef that the message shows in Git, or set addBackend.")
    ROUTE_MISSING = ("RouteMissing", "The traffic object does not exist.",
        "Add it to Git; until then traffic is untouched.")
    NO_RULES = ("NoRules", "No rule of the traffic object routes to one of the versions.",
        "Add a backendRef to the stable pool, or correct ruleNames.")
    MISSING_MODELS = ("MissingModels", "The new pool does not serve every adapter whose requests the route carries.",
        "Load them there, or set allowMissingModels.")
    NAME_CONTESTED = ("NameContested",
        "A rule of adapters and a variant's model both say under which name the same requests are sent.",
        "Leave one of them out, as the message says.")
    FROZEN = ("Frozen", "A RolloutFreeze selects the Rollout: no weight rises and no attempt begins.",
        "Wait until it ends, as the message says; promote --full goes on at once.")
    WAITING_FOR_DEPENDENCY = ("WaitingForDependency",
        "A Rollout of dependsOn is not Healthy yet, or not for as long as its soak.",
        "Wait; promote --full begins at once, without gates.")
    DEPENDENCY_ABORTED = ("DependencyAborted", "A Rollout of dependsOn was aborted: this one stays behind it.",
        "Push a fix there or retry it, or revert both.")
    DEPENDENCY_MISSING = ("DependencyMissing",
        "A Rollout of dependsOn does not exist, or nothing may be known of it: this one does not begin.",
        "Create it, correct its name, or annotate it with inferencerollouts.dev/dependents.")
    DEPENDENCY_CYCLE = ("DependencyCycle", "Rollouts depend on each other in a circle, so that none can begin.",
        "Take one of the dependsOn out that the message names.")
    WAITING_FOR_TURN = ("WaitingForTurn",
        "As many Rollouts are in progress as the controller's `parallelism` allows; the attempt is in line.",
        "Wait; promote --full begins at once, without gates.")
    POOL_IN_ROLLOUT = ("PoolInRollout",
        "The adapter's pool is itself being rolled out; the attempt has its turn after that.",
        "Wait for the other Rollout.")
    ADAPTER_MISSING = ("AdapterMissing", "Ready pods of the pool do not have the adapter.",
        "Load it, give a source, or look at the pods that the message names.")
    ADAPTER_CONTENT_MISMATCH = ("AdapterContentMismatch", "Pods have something else under the adapter's name.",
        "Unload that, or give the new adapter a name of its own.")
    ADAPTER_UNPROVEN = ("AdapterUnproven", "The adapter has not answered its probe on every pod yet.",
        "Look at the pods that the message names.")
    ADAPTER_WITHOUT_EFFECT = ("AdapterWithoutEffect", "The adapter answers a short prompt as its base does.",
        "Check that it was trained and saved whole.")
    SERVICE_NOT_IN_GROUP = ("ServiceNotInGroup", "An LLMInferenceService is not in the group that traffic names.",
        "Set spec.router.route.group there, and weight to 0.")
    SERVICE_NOT_READY = ("ServiceNotReady", "KServe does not call the LLMInferenceService Ready.",
        "KServe's words are in the message; read its status.")
    SERVICE_STOPPED = ("ServiceStopped", "The LLMInferenceService is stopped: KServe gives it no requests.",
        "Take its annotation serving.kserve.io/stop away.")
    SERVICE_STARTING = ("ServiceStarting", "The LLMInferenceService was stopped when it lost, and is started again.",
        "Nothing: KServe makes its pods.")
    GROUP_DIVERGES = ("GroupDiverges", "The two members serve other names: KServe shares nothing between them.",
        "Give both the same model name and adapters.")
    VARIANT_MODEL_MISSING = ("VariantModelMissing",
        "Ready pods of the variant do not serve the model under the name that is sent to them.",
        "Correct the model's name, or see what the pods list under /v1/models.")
    # The spec, or who owns what
    SPEC_INVALID = "SpecInvalid", "The spec breaks a rule that the message names.", "Correct the field."
    UNREADABLE = "Unreadable", "The spec cannot be read at all.", "Restore it from Git."
    ADAPTER_NAME_TAKEN = ("AdapterNameTaken", "The target has the stable adapter's name and another source.",
        "Give the new adapter a name of its own.")
    SPLIT_OVERRULED = ("SplitOverruled", "Pickers go by an older PoolSplit for the same requests.",
        "Delete the one that the message names, or move what it says into the Rollout.")
    VARIANT_NAME_TAKEN = ("VariantNameTaken", "The target has the stable variant's name and other labels or model.",
        "Give the new variant a name of its own.")
    VARIANTS_OVERLAP = ("VariantsOverlap", "A pod could have the labels of both variants.",
        "Give one of their labels another value.")
    SOURCE_NOT_ALLOWED = ("SourceNotAllowed", "The adapter's source is under no prefix that the administrator allows.",
        "Move it, or ask for the prefix.")
    DIALECT_UNKNOWN = ("DialectUnknown", "No InferenceModelRewrite of this cluster can say the weights.",
        "Install the CRD of a version that is supported.")
    MODEL_NAME_DIFFERS = ("ModelNameDiffers", "The model object answers to another name than traffic says.",
        "Make modelName agree.")
    RULE_MISSING = ("RuleMissing", "No rule of the model object carries the model's requests.",
        "Add the rule, or correct modelName.")
    WEIGHT_TOO_LARGE = ("WeightTooLarge", "The weights of a rule are too large to be scaled exactly.",
        "Use smaller weights there.")
    GROUP_TOO_COARSE = ("GroupTooCoarse",
        "Beside members of others with weight, no whole number says the share that a step asks.",
        "Make all weights of the group a hundred times as large.")
    GROUP_TOO_HEAVY = ("GroupTooHeavy",
        "Beside members of others with weight, both versions have more together than one of them may have.",
        "Make all weights of the group a tenth as large.")
    GROUP_WITHOUT_SHARE = ("GroupWithoutShare",
        "Members of others have all weight of the group, and stable has none.",
        "Give stable the weight that it is to have.")
    NOT_MANAGED = ("NotManaged", "Only a Managed route can carry this step.",
        "Give the route a template, or leave the step out.")
    TEMPLATE_INVALID = "TemplateInvalid", "A template cannot be used: the message says which, and why.", "Correct it."
    TEMPLATE_MISSING = ("TemplateMissing", "An AnalysisTemplate that a gate names does not exist.",
        "Create it, or correct the name.")
    TEMPLATE_PINS_CANARY = ("TemplatePinsCanary",
        "A rule of the route's template sends requests to the canary whatever its weight.", "Take that backendRef out.")
    ARGUMENT_MISSING = "ArgumentMissing", "A template's argument has no value.", "Give it one in args."
    ARGUMENT_UNKNOWN = "ArgumentUnknown", "No template of the gate takes this argument.", "Remove it."
    METRIC_DUPLICATE = "MetricDuplicate", "Two metrics of a gate have one name.", "Rename one."
    TOO_MANY_METRICS = ("TooManyMetrics", "A gate, or an attempt, measures more than is possible.",
        "Let gates share their metrics.")
    COMPARE_INVALID = ("CompareInvalid", "A comparison cannot be made as it is written.",
        "Correct what the message names.")
    QUERY_UNKNOWN = "QueryUnknown", "The source of a query knows no PromQL.", "Use measure, or a Prometheus source."
    PRESET_UNKNOWN = "PresetUnknown", "The source has no preset of this name.", "Take one that the message lists."
    STAT_UNKNOWN = "StatUnknown", "What is measured has no such statistic.", "Take one that the message lists."
    SOURCE_UNKNOWN = ("SourceUnknown", "No metric source is called so.",
        "Take one that the message lists, or configure it.")
    CONDITION_INVALID = "ConditionInvalid", "A condition of a metric is no CEL over result.", "Correct it."
    CONDITION_UNCHECKED = ("ConditionUnchecked", "A condition is being looked at in a process of its own.",
        "Wait; it takes seconds.")
    GATE_INVALID = ("GateInvalid", "The API server refuses the run or Job that a gate would make.",
        "Correct the gate, or what refuses it, as the message says.")
    ROUTE_INVALID = ("RouteInvalid", "The API server refuses the route that the template renders to.",
        "Correct the template as the message says.")
    ROUTE_CONFLICT = ("RouteConflict", "A route of that name exists and is not ours.",
        "Annotate it with inferencerollouts.dev/managed-by to hand it over.")
    ROUTE_NOT_CONSENTED = ("RouteNotConsented", "The adopted object does not name this Rollout.",
        "Annotate it in Git with inferencerollouts.dev/managed-by.")
    CLAIMED_BY_OTHER = ("ClaimedByOther", "The traffic object belongs to another Rollout.",
        "Delete that one, or use another object.")
    RULES_DISAGREE = ("RulesDisagree", "The route's rules disagree on which version is stable.",
        "Make their weights agree, or choose rules with ruleNames.")
    # An attempt under way
    STARTED = "Started", "The target was ready and the first step began."
    SETTING_WEIGHT = "SettingWeight", "A weight is being put in force, and requests are being counted under it."
    STEP_COMPLETED = "StepCompleted", "A step is done, the next one begins."
    STEPS_CHANGED = "StepsChanged", "The steps were edited: it goes on at the first one at or above the current weight."
    POOL_MOVED = ("PoolMoved",
        "The traffic object lists a version's pool in another API group: that pool is the version now.")
    STEP_TRIED_AGAIN = "StepTriedAgain", "A rise that was undone was not at fault and is tried again."
    RESUMED = "Resumed", "A pause, a hold or a gate is over."
    ANALYSING = "Analysing", "A gate is measuring."
    AWAITING_ANALYSIS = ("AwaitingAnalysis",
        "What is left waits for the background analysis, which has not passed yet.", "Wait, or promote against it.")
    JOB_RUNNING = "JobRunning", "The Job of a step is running."
    BAKING = "Baking", "The canary has all traffic and stays under watch until the bake is over."
    PROBING_PATH = "ProbingPath", "A few requests go through the gateway to the canary before its first weight."
    PATH_PROBED = "PathProbed", "The route was given the probe's rule, or it was taken out."
    PATH_PROBE_FAILED = ("PathProbeFailed", "The probe's requests failed, or did not reach the canary.",
        "Look at picker, TLS, route and pod, as the message says.")
    WAITING_FOR_GATEWAY = ("WaitingForGateway", "A gateway has not accepted the route at its present generation.",
        "Look at the route's status.")
    NOT_PROGRAMMED = ("NotProgrammed", "A gateway has not accepted the route at its present generation.",
        "Look at the route's status.")
    NOT_ENOUGH_ENDPOINTS = ("NotEnoughEndpoints", "The canary has fewer Ready endpoints than the next weight needs.",
        "Scale it up, or lower endpointRatio.")
    WAITING_FOR_PODS = ("WaitingForPods", "The canary's workload was scaled up for the next weight; pods are missing.",
        "Wait; read in the message what the scheduler says of pods that are Pending.")
    CAPACITY_EXHAUSTED = ("CapacityExhausted", "The next weight needs more pods than maxSurge leaves room for.",
        "Wait for pods that are being deleted, or raise maxSurge.")
    CAPACITY_INFEASIBLE = ("CapacityInfeasible", 
        "The canary at 100 % and what stable keeps, by minStable or for an autoscaler, need more pods than may be.",
        "Take one of the numbers in the message.")
    MAKING_ROOM = ("MakingRoom", "The weight rises by what the canary's Ready pods carry, as stable gives pods to it.",
        "Wait; the message says for which pods.")
    RETURNING_WITH_PODS = ("ReturningWithPods",
        "Traffic returns to stable by as much as its pods are Ready again.",
        "Wait for its pods, or abort by command to return all of it at once.")
    RETURN_NOT_WAITED_FOR = ("ReturnNotWaitedFor",
        "All traffic went back to a stable that lacks pods: waiting for them led nowhere.",
        "The message says what keeps the pods: correct that; scale stable by hand where it is short.")
    DRAIN_NOT_CONTROLLABLE = ("DrainNotControllable",
        "The plan takes pods from stable while it serves, and requests cannot be kept from pods that are to go.",
        "Set maxSurge so that all fit, or use the picker of this project.")
    WARM_UP_FAILED = ("WarmUpFailed", 
        "A pod of the canary is Ready and does not answer the requests of capacity.warmUp.",
        "Read what its server said in the message; it is tried again every 10 s.")
    WARM_UP_NOT_CONTROLLABLE = ("WarmUpNotControllable",
        "capacity.warmUp keeps requests from pods that are not warm, and here it cannot.",
        "Leave warmUp out, or use the picker of this project.")
    CAPACITY_UNKNOWN = ("CapacityUnknown",
        "It is not known which workload makes the pods of a version, or which pool's pods work for them.",
        "Annotate the pool with inferencerollouts.dev/workload or /roles, or label its companion, as the message says.")
    CAPACITY_MANAGED_ELSEWHERE = ("CapacityManagedElsewhere",
        "Something else scales the workload of a version, so that it is waited for and never scaled.",
        "Raise what the message names.")
    REPLICAS_CONTENDED = ("ReplicasContended",
        "Somebody lowers the canary's replicas again and again: they are not restored for a while.",
        "Leave replicas out of what your GitOps tool applies.")
    REPLICAS_RESTORED = ("ReplicasRestored", "Replicas of the canary's workload that somebody lowered were restored.",
        "Leave replicas out of what your GitOps tool applies.")
    SCALED = "Scaled", "A workload was scaled, or an LLMInferenceService stopped or started."
    SCALE_REFUSED = ("ScaleRefused", "The API server refuses to scale a workload; it is tried again.",
        "Read its words; the chart value capacity.enabled gives the right to.")
    SCALE_DOWN_LEFT = ("ScaleDownLeft", "A version was left with the pods that it has.",
        "Scale it by hand, as the message says.")
    CANARY_NOT_READY = "CanaryNotReady", "The canary cannot serve; its weight is 0 until it can.", "Look at its pods."
    CANARY_REFUSES_CONNECTIONS = ("CanaryRefusesConnections",
        "All pods of the canary refuse connections while stable's answer; its weight is 0.", "Look at its pods.")
    NO_TRAFFIC = ("NoTraffic", "No weight rises before one request was counted at the canary, and none came.",
        "Send some, or set allowNoTraffic.")
    SHARE_UNMEASURED = ("ShareUnmeasured",
        "No weight rises before one request was counted at the canary, and nobody can count.",
        "Make the metrics readable, or set allowNoTraffic.")
    SHARE_MISMATCH = ("ShareMismatch", "Requests arrive otherwise than the weight says.",
        "Check that the gateway honours weights between InferencePools.")
    WRITE_UNDONE = ("WriteUndone", "A rise was taken back because requests of both versions stopped after it.",
        "Wait two minutes; it is tried again, or aborted.")
    # Held for a person
    PAUSE_STEP = "PauseStep", "A pause step: for its time, or until it is promoted.", "promote goes on."
    PAUSED_BY_SPEC = "PausedBySpec", "spec.paused holds the steps.", "Set it to false."
    PAUSED_BY_COMMAND = "PausedByCommand", "A command holds the steps.", "resume goes on."
    MANUAL_OVERRIDE = ("ManualOverride", "Somebody lowered the canary by hand: that weight is kept.",
        "resume goes on, abort goes back.")
    TRAFFIC_CONTENDED = ("TrafficContended", "Somebody overwrites the weights again and again: theirs are kept.",
        "Find the writer that conditions name, then resume.")
    SPLIT_AT_START = ("SplitAtStart", "The target was found with most of the traffic, others with some.",
        "promote gives it all.")
    AMBIGUOUS_START = ("AmbiguousStart", "Versions were found with the same weight.",
        "Say in stableHint which is stable.")
    UNMATCHED_PODS = ("UnmatchedPods", "Ready pods of the pool match no variant: a split leaves them without requests.",
        "Scale them down, name them by stableHint, or promote.")
    GATE_FAILED = ("GateFailed", "A gate failed: it aborts, or, with onFail Pause, it waits for a person.",
        "Read the figures in the message; promote overrides a pause.")
    GATE_INCONCLUSIVE = "GateInconclusive", "A gate could not decide.", "promote overrides it, abort goes back."
    PROGRESS_DEADLINE_EXCEEDED = ("ProgressDeadlineExceeded", "A step did not come into force in time.",
        "Mend what the message names, then retry or promote.")
    # Ended without promotion
    ABORTED_BY_COMMAND = "AbortedByCommand", "A person aborted the attempt.", "Revert or push a fix, or retry."
    JOB_FAILED = "JobFailed", "The Job of a step failed.", "Read its log; then push a fix, or retry."
    CANARY_POOL_DELETED = ("CanaryPoolDeleted", "The canary's pool was deleted under way.",
        "Create it again and retry, or revert.")
    CANARY_CRASHED = ("CanaryCrashed", "The canary's pods crash more often than stable's can explain.",
        "Read their logs.")
    TARGET_DEADLINE_EXCEEDED = ("TargetDeadlineExceeded", "The target did not become Ready in time.",
        "Mend what the message names, then retry.")
    SHARE_NOT_PROGRAMMED = ("ShareNotProgrammed", "The gateway took the weight and sends the canary nothing.",
        "Read its log; not every gateway splits between InferencePools.")
    PATH_BROKEN = ("PathBroken", "Requests of both versions stopped with a rise and came back when it was undone.",
        "Look at the canary's picker, its TLS and the gateway's log.")
    CANARY_DROPPED = "CanaryDropped", "The spec asks for something else: the canary was dropped."
    # Traffic that is not where it should be
    STABLE_POOL_MISSING = "StablePoolMissing", "STABLE DOES NOT EXIST: nobody serves.", "Bring its pool back."
    STABLE_NOT_READY = ("StableNotReady", "STABLE HAS NO READY ENDPOINT: weights stay as they are.",
        "Bring its pods back; traffic then returns at once.")
    STABLE_PICKER_NOT_READY = ("StablePickerNotReady",
        "The endpoint picker of stable has no Ready pod, so gateways answer with an error.", "Bring the picker back.")
    ABORT_BLOCKED_BY_CLAIM = ("AbortBlockedByClaim",
        "The canary keeps its weight because the object names another Rollout.",
        "Let it name this one again, or delete the other.")
    TRAFFIC_REFUSED = ("TrafficRefused", "The API server refuses the write of the traffic object; it is tried again.",
        "Read its words; a policy or webhook may freeze the object.")
    STATUS_REFUSED = ("StatusRefused",
        "The API server does not store the Rollout's status: only a return of traffic to stable does not wait.",
        "Read its words; a policy or webhook may cover rollouts/status, or RBAC lack it.")
    TRAFFIC_NOT_RESTORED = ("TrafficNotRestored", "The Rollout was deleted and its canary keeps traffic.",
        "Set the weights by hand.")
    FOREIGN_WRITE = ("ForeignWrite", "Somebody else wrote our weights.",
        "Leave weights out of what your GitOps tool applies.")
    WEIGHT_RESTORED = ("WeightRestored", "Somebody else's weights were overwritten.",
        "Leave weights out of what your GitOps tool applies.")
    # Writes, commands and objects
    WEIGHT_SET = "WeightSet", "The traffic object was given a step's weight."
    ROLLED_BACK = "RolledBack", "All traffic was given to stable."
    TRAFFIC_SETTLED = "TrafficSettled", "The traffic object was brought up to date."
    COMMAND_DONE = "CommandDone", "A command was carried out."
    COMMAND_REJECTED = "CommandRejected", "A command does not fit; the message says why."
    COMMAND_IN_PROGRESS = ("CommandInProgress", "An abort is decided, and the canary still has traffic.",
        "Read in the message what keeps it.")
    NAME_TAKEN = ("NameTaken", "An object with the name of ours belongs to somebody else; ours gets another.",
        "Delete it if nobody needs it.")
    AWAITING_APPROVAL = ("AwaitingApproval", "An approve step, or a pause with one: the receiver has not approved yet.",
        "Ask whoever answers there; promote goes on without, abort ends it.")
    APPROVED = "Approved", "The receiver that a step names has approved it; the message says who."
    APPROVAL_DENIED = ("ApprovalDenied", "The receiver that a step names has denied it.",
        "Read its words; push a fix, or retry.")
    RECEIVER_UNKNOWN = ("ReceiverUnknown",
        "A step names a receiver that the controller does not have, or that does not answer for this namespace.",
        "Correct the name, or have the administrator add it; the message lists what there is.")
    STRATEGY_MISSING = ("StrategyMissing", "strategy.canaryFrom names a shared strategy that cannot be found.",
        "Create it, correct the name, or write the steps into strategy.canary.")
    STRATEGY_INVALID = ("StrategyInvalid",
        "strategy.canaryFrom names a shared strategy that cannot be used, or not by this Rollout.",
        "Correct the field that the message names.")
    OUTSIDE_WINDOW = ("OutsideWindow",
        "The step asks for more weight, and no window of strategy.canary.windows is open.",
        "Wait for the one that the message names; promote --full goes on at once.")
    NOTIFICATION_UNKNOWN = ("NotificationUnknown",
        "An annotation subscribes to a trigger or receiver that the controller does not have.",
        "Correct the annotation; the message lists what there is.")
    RUN_REFUSED = ("RunRefused", "The API server refuses a change of an AnalysisRun, so that its gate may wait.",
        "Delete the run if somebody edited it.")
    WRITES_CONTENDED = ("WritesContended",
        "Something changes again and again under what the controller is about to write, so that it writes nothing.",
        "Find the writer, as the message names it, and let it write only what differs.")
    # Conditions that are as they should be
    READY = "Ready", "The target can serve."
    APPLIED = "Applied", "The traffic object says what the status asks for."
    VALID = "Valid", "The spec can be used."
    NONE = "None", "Nobody else writes the weights."
    SETTLED = "Settled", "Nothing is under way."
    NOT_STALLED = "NotStalled", "Nothing is stuck."
    UNKNOWN = "Unknown", "Nothing is known yet."
    # fmt: on


def printed(text: str) -> Reason | Printed:
    """A stored reason, known or not."""
    try:
        return Reason(text)
    except ValueError:
        return Printed(text)
