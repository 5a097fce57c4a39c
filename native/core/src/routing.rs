//! From a request to a decision: target by split, pod by schedule, or a refusal with its status.
//! See `rollouts/picker/core/routing.py`.
//!
//! Several threads share one `Router`: a decision is one short lock, so that the split of a replica is one exact sequence
//! however many threads there are. What takes long, hashing a prompt, is done outside it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

use crate::body::Wanted;
use crate::content::strip;
use crate::endpoints::{Endpoint, Subset};
use crate::messages::Headers;
use crate::policies::{ALL_MODELS, KeySource, ModelPolicy, PIN_HEADER, StickyKey};
use crate::ports::Routing;
use crate::prefix::BlockHasher;
use crate::reader::{PROMPTS, ReadBody, Unread};
use crate::refusals::Refusal;
use crate::rules::{Rule, RuleKey};
use crate::schedule::{Load, Pods, ScheduleConfig, Scheduler};
use crate::snapshot::Snapshot;
use crate::split::{Diffusion, sticky};
use crate::variants::VariantTable;

/// What a request says, beside its headers, as far as it decides. `model` is empty for one that names none.
///
/// `has_body`: only then there is a place for a model, and rules for all models apply to one without.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub model: Arc<str>,
    pub fields: Vec<(String, String)>,
    pub prompt: Bytes,
    pub subset: Option<Subset>,
    pub has_body: bool,
    pub unread: Option<Unread>,
}

impl Request {
    /// From what its body asks for.
    pub fn of(body: ReadBody, subset: Option<Subset>) -> Self {
        let ReadBody { model, fields, prompt, has_body, unread } = body;
        Self { model: model.into(), fields, prompt, subset, has_body, unread }
    }
}

/// Where a request goes. `target` is the model name to send; it may equal `model`.
///
/// `restored`: the response is to carry `model` again. `split`: a rule, or a variant, may choose the target.
/// `variant`: the version of the pool's pods, empty where none is split; `pool_split`: whose variant, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub model: Arc<str>,
    pub target: Arc<str>,
    pub endpoint: Arc<Endpoint>,
    pub measured: bool,
    pub restored: bool,
    pub split: bool,
    pub variant: Arc<str>,
    pub pool_split: Arc<str>,
}

/// What happens to a target's share while no pod can serve it. The other shares never notice.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Unready {
    #[default]
    Spill,
    Shed,
}

/// What is fixed when a router is made.
#[derive(Clone, Debug, Default)]
pub struct RouterConfig {
    pub schedule: ScheduleConfig,
    pub unready: Unready,
    pub restore_model: bool,
}

/// Requests per rule's model and target since the weights last changed.
pub type Shares = BTreeMap<Arc<str>, BTreeMap<Arc<str>, u64>>;

/// Routes by a snapshot, which may be replaced at any time.
#[derive(Debug)]
pub struct Router {
    state: Mutex<State>,
    body_fields: RwLock<Wanted>,
    hasher: BlockHasher,
    several: AtomicBool, // whether there is a choice of pods, so that the blocks of a prompt matter
}

impl Router {
    pub fn new(config: RouterConfig) -> Self {
        let state = State {
            scheduler: Scheduler::new(config.schedule),
            unready: config.unready,
            restore_model: config.restore_model,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            body_fields: RwLock::new(body_fields(&Snapshot::default())),
            hasher: BlockHasher::default(),
            several: AtomicBool::new(false),
        }
    }

    /// Take over a new state of the cluster. Splits whose weights did not change go on. `wall`: Unix time.
    pub fn update(&self, snapshot: Snapshot, now: f64, wall: f64) {
        let fields = body_fields(&snapshot);
        let several = snapshot.endpoints.len() > 1;
        self.lock().replace(|next| next.update(snapshot, now, wall));
        self.several.store(several, Ordering::Relaxed);
        *self.body_fields.write().unwrap_or_else(PoisonError::into_inner) = fields;
    }

    /// What a pod's metrics said. `before`: how many requests it had got when they were asked for; None: all so far.
    pub fn observe(&self, address: &str, load: Load, now: f64, before: Option<i64>) {
        let lists = self.lock().scheduler.observe(address, load, now, before);
        if let Some(lists) = lists {
            let mut known = lists.together();
            self.lock().scheduler.know(&mut known); // what was known before is dropped outside of the lock
        }
    }

    /// The state behind the lock: to read, and for no longer than that takes.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routing for Router {
    fn body_fields(&self) -> Wanted {
        Arc::clone(&self.body_fields.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn route(&self, headers: &Headers, request: &Request, now: f64) -> Result<Decision, Refusal> {
        let prompt = if self.several.load(Ordering::Relaxed) { &request.prompt[..] } else { b"" };
        let digests = self.hasher.digests(prompt);
        self.lock().route(headers, request, &|model| self.hasher.chained(model, &digests), now)
    }
}

/// Top-level members of the body that decide: the model, the prompt, the fields of sticky keys.
fn body_fields(snapshot: &Snapshot) -> Wanted {
    let mut fields: BTreeSet<String> = PROMPTS.iter().copied().chain(["model"]).map(str::to_owned).collect();
    let policies = snapshot.policies.values().map(|policy| &**policy);
    let policies = policies.chain(snapshot.variants.iter().map(|rule| &rule.policy));
    let keys = policies.filter_map(|policy| policy.sticky.as_ref());
    fields.extend(keys.filter(|key| key.source == KeySource::BodyField).map(|key| key.name.to_string()));
    fields.into_iter().collect()
}

/// What a router knows and counts.
#[derive(Debug, Default)]
pub struct State {
    pub snapshot: Snapshot,
    pub scheduler: Scheduler,
    pub variants: VariantTable,
    pub shares: Shares,
    unready: Unready,
    restore_model: bool,
    splits: HashMap<RuleKey, Diffusion>,
    nameless: u64, // requests without an id so far
}

/// Where a request may go, and as what, before a pod is chosen.
struct Course {
    target: Arc<str>,
    /// Name of the variant, empty for none.
    variant: Arc<str>,
    pods: Pods,
}

type Chain<'a> = &'a dyn Fn(&str) -> Vec<u64>;

impl State {
    /// Change a copy and take it over: should `change` panic, everything goes on as it was, and the split stays exact.
    fn replace(&mut self, change: impl FnOnce(&mut Self)) {
        let mut next = Self {
            snapshot: self.snapshot.clone(),
            scheduler: self.scheduler.aside(),
            variants: self.variants.clone(),
            shares: self.shares.clone(),
            splits: self.splits.clone(),
            ..*self
        };
        change(&mut next);
        std::mem::swap(&mut next.scheduler.prefixes, &mut self.scheduler.prefixes);
        *self = next;
    }

    fn update(&mut self, snapshot: Snapshot, now: f64, wall: f64) {
        self.variants.hear(&self.scheduler);
        self.scheduler.sync(&snapshot.endpoints, now, wall);
        self.variants.update(snapshot.variants.clone(), &self.scheduler);
        let mut known = std::mem::take(&mut self.splits);
        for rule in snapshot.rules.winners().iter().filter(|rule| !rule.targets.is_empty()) {
            let split = match known.remove(&rule.key) {
                None => Diffusion::new(&rule.targets),
                Some(mut split) => {
                    if split.update(&rule.targets) {
                        self.shares.remove(&rule.model);
                    }
                    split
                }
            };
            self.splits.insert(rule.key.clone(), split);
        }
        let kept: HashSet<_> = snapshot.rules.winners().iter().map(|rule| &rule.model).collect();
        self.shares.retain(|model, _| kept.contains(model));
        self.snapshot = snapshot;
    }

    fn route(&mut self, headers: &Headers, request: &Request, chain: Chain<'_>, now: f64) -> Result<Decision, Refusal> {
        let named = !request.model.is_empty() || request.has_body;
        let mut rule = self.snapshot.rules.find(&request.model).filter(|_| named).cloned();
        let targeted = |rule: &Option<Arc<Rule>>| rule.as_ref().is_some_and(|rule| !rule.targets.is_empty());
        if let Some(unread) = &request.unread {
            let needed = !self.splits.is_empty() || self.variants.needs_model;
            if targeted(&rule) || (unread.hidden && needed) {
                return Err(unread.refusal.clone());
            }
            rule = None;
        }
        let ruled = rule.as_ref().filter(|rule| !rule.targets.is_empty());
        let policy = self.policy(&request.model);
        let pods = self.scheduler.candidates(request.subset.as_ref());
        if pods.is_empty() {
            return Err(unavailable(request, "", "", ""));
        }
        let found = self.variants.find(&request.model, request.subset.as_ref(), &pods, &self.scheduler);
        let course = match (found, ruled) {
            (Some(split), _) => self.among(split, ruled, &policy, headers, request, pods),
            (None, Some(rule)) => self.targeted(rule, &policy, headers, request, pods),
            (None, None) => Course { target: Arc::clone(&request.model), variant: Arc::default(), pods },
        };
        let Course { mut target, mut variant, pods } = course;
        let mut source = self.source(found, &variant);
        if pods.is_empty() {
            return Err(unavailable(request, &target, &variant, &source));
        }
        let pods = self.scheduler.staying(pods, &target);
        if rule.as_ref().is_some_and(|rule| rule.sheddable) && self.scheduler.saturated(&pods, now) {
            let text = "all pods are saturated and this model is sheddable: try again later";
            return Err(refusal(429, "rejected-saturated", text, request, &target, &variant, &source));
        }
        let hashes = if pods.len() > 1 { chain(&target) } else { Vec::new() };
        let endpoint = self.scheduler.choose(&pods, &target, &hashes, now);
        let mut part = policy.measured;
        let mut renames = false;
        if let Some(split) = found {
            (target, variant) = self.served(split, target, variant, request, &endpoint, ruled.is_some());
            source = self.source(found, &variant);
            let split = &self.variants.splits[split];
            part = part.max(split.rule.policy.measured);
            renames = split.renames;
        }
        if let Some(rule) = ruled {
            let counts = self.shares.entry(Arc::clone(&rule.model)).or_default();
            *counts.entry(Arc::clone(&target)).or_default() += 1;
        }
        let measured = self.is_measured(headers, part);
        let restored = self.restore_model && !request.model.is_empty() && target != request.model;
        let split = ruled.is_some() || renames;
        let model = Arc::clone(&request.model);
        Ok(Decision { model, target, endpoint, measured, restored, split, variant, pool_split: source })
    }

    fn policy(&self, model: &str) -> Arc<ModelPolicy> {
        let policies = &self.snapshot.policies;
        policies.get(model).or_else(|| policies.get(ALL_MODELS)).cloned().unwrap_or_default()
    }

    fn source(&self, found: Option<usize>, variant: &str) -> Arc<str> {
        let split = found.filter(|_| !variant.is_empty()).map(|split| &self.variants.splits[split]);
        split.map(|split| Arc::clone(&split.rule.name)).unwrap_or_default()
    }

    /// Target, variant and pods where the pool's pods are split; no pods where nobody may serve.
    ///
    /// `rule`: the one that gives the target; it goes first, and the variant only says which of its pods.
    fn among(
        &mut self,
        split: usize,
        rule: Option<&Arc<Rule>>,
        policy: &ModelPolicy,
        headers: &Headers,
        request: &Request,
        pods: Pods,
    ) -> Course {
        let subset = request.subset.as_ref();
        let found = &self.variants.splits[split];
        let pinned = found.pinned(headers.text(PIN_HEADER));
        let own = pinned.map(|variant| found.pods_of(variant, subset, &self.scheduler)).unwrap_or_default();
        let everybody = found.without_pods && own.is_empty();
        let pods = match (everybody, own.is_empty()) {
            (true, _) => pods,
            (false, true) => found.allowed(subset, &self.scheduler),
            (false, false) => own,
        };
        let mut course = Course { target: Arc::clone(&request.model), variant: Arc::default(), pods };
        if let Some(rule) = rule.filter(|_| !course.pods.is_empty()) {
            course = self.targeted(rule, policy, headers, request, course.pods);
        }
        if everybody || course.pods.is_empty() {
            return course;
        }
        let found = &mut self.variants.splits[split];
        let key = key_of(found.rule.policy.sticky.as_ref(), headers, request);
        let nothing = Arc::default();
        let sequence = if rule.is_some() { &course.target } else { &nothing };
        let chosen = pinned.unwrap_or_else(|| found.take(&key, sequence));
        let (ruled, shed) = (rule.is_some(), self.unready == Unready::Shed);
        let found = &self.variants.splits[split];
        let name_of = |variant: usize| match ruled {
            true => Arc::clone(&course.target),
            false => self.name_for(split, variant, request),
        };
        let serving = |variant: usize, pods: &[usize]| match name_of(variant) {
            name if name.is_empty() => pods.to_vec(),
            name => self.scheduler.serving(pods, &name),
        };
        match found.place(chosen, subset, &self.scheduler, serving, shed) {
            None => {
                let variant = Arc::clone(&found.rule.variants[chosen].name);
                Course { target: course.target, variant, pods: Pods::new() }
            }
            Some((placed, pods)) => {
                Course { target: name_of(placed), variant: Arc::clone(&found.rule.variants[placed].name), pods }
            }
        }
    }

    /// Target and variant as they turned out; where all pods serve, it is the pod that says which variant it is.
    fn served(
        &mut self,
        split: usize,
        mut target: Arc<str>,
        mut variant: Arc<str>,
        request: &Request,
        endpoint: &Endpoint,
        ruled: bool,
    ) -> (Arc<str>, Arc<str>) {
        let found = &self.variants.splits[split];
        if let Some(of_pod) = found.of(&endpoint.address).filter(|_| variant.is_empty()) {
            variant = Arc::clone(&found.rule.variants[of_pod].name);
            if !ruled {
                target = self.name_for(split, of_pod, request);
            }
        }
        if !variant.is_empty() {
            *self.variants.splits[split].counts.entry(Arc::clone(&variant)).or_default() += 1;
        }
        (target, variant)
    }

    /// The model name to send to a variant's pods where no rule says which.
    ///
    /// Adapters stay what they are where all requests of a pool are split: they are served under their own names. What
    /// no pod lists is replaced once pods of the variant have listed what they serve; until then it may be an adapter,
    /// which the base model must not answer for.
    fn name_for(&self, split: usize, variant: usize, request: &Request) -> Arc<str> {
        let (found, asked) = (&self.variants.splits[split], &request.model);
        let model = &found.rule.variants[variant].model;
        let kept = || {
            self.scheduler.is_adapter(asked)
                || !(self.scheduler.is_model(asked) || found.is_told(variant, &self.scheduler))
        };
        if model.is_empty() || asked.is_empty() || request.unread.is_some() {
            return Arc::clone(asked);
        }
        if found.rule.model_name.is_empty() && kept() { Arc::clone(asked) } else { Arc::clone(model) }
    }

    /// The target that a rule gives, and the candidates that serve it; none where its share is shed.
    fn targeted(
        &mut self,
        rule: &Rule,
        policy: &ModelPolicy,
        headers: &Headers,
        request: &Request,
        pods: Pods,
    ) -> Course {
        let target = self.target(rule, policy, headers, request);
        let able = self.scheduler.serving(&pods, &target);
        let (target, pods) = if able.is_empty() { self.without_pods(rule, target, pods) } else { (target, able) };
        Course { target, variant: Arc::default(), pods }
    }

    fn target(&mut self, rule: &Rule, policy: &ModelPolicy, headers: &Headers, request: &Request) -> Arc<str> {
        if policy.pinned_by_header {
            let pin = String::from_utf8_lossy(headers.text(PIN_HEADER));
            let pinnable = || rule.targets.iter().map(|target| &target.name).chain(&policy.pinnable);
            if let Some(name) = pinnable().find(|name| !pin.is_empty() && ***name == *pin) {
                return Arc::clone(name);
            }
        }
        let key = key_of(policy.sticky.as_ref(), headers, request);
        if !key.is_empty() {
            return Arc::clone(&rule.targets[sticky(&rule.targets, &key)].name);
        }
        let split = self.splits.entry(rule.key.clone()).or_insert_with(|| Diffusion::new(&rule.targets));
        Arc::clone(split.take())
    }

    /// No pod lists `target`: the heaviest other target that has pods, if the policy is to spill.
    ///
    /// With nowhere to spill to, the pods get the request all the same: their 404 says more than a 503.
    fn without_pods(&self, rule: &Rule, target: Arc<str>, pods: Pods) -> (Arc<str>, Pods) {
        let weighted = rule.targets.iter().filter(|other| other.name != target && other.weight > 0);
        let mut others: Vec<_> = weighted.collect();
        if others.is_empty() {
            return (target, pods);
        }
        if self.unready == Unready::Shed {
            return (target, Pods::new());
        }
        others.sort_by_key(|other| std::cmp::Reverse(other.weight));
        for other in others {
            let able = self.scheduler.serving(&pods, &other.name);
            if !able.is_empty() {
                return (Arc::clone(&other.name), able);
            }
        }
        (target, pods)
    }

    /// Whether the request is in the sample, by its id alone, so that every target has the same odds.
    fn is_measured(&mut self, headers: &Headers, fraction: f64) -> bool {
        if fraction <= 0.0 || fraction >= 1.0 {
            return fraction >= 1.0;
        }
        // CRC-32 of a random id is uniform enough; a stronger hash would buy nothing.
        let sum = match headers.text(b"x-request-id") {
            [] => {
                self.nameless += 1;
                crc32(self.nameless.to_string().as_bytes())
            }
            name => crc32(name),
        };
        f64::from(sum) < fraction * 4_294_967_296.0
    }
}

fn unavailable(request: &Request, target: &str, variant: &str, source: &str) -> Refusal {
    let text = if request.subset.is_some() {
        Cow::from("none of the endpoints that the gateway allows is ready in this pool")
    } else if !variant.is_empty() {
        format!("no pod of variant {variant} is ready to serve this").into()
    } else if !target.is_empty() {
        format!("no pod is ready to serve {}", quoted(target)).into()
    } else {
        "no pod of this pool is ready".into()
    };
    refusal(503, "rejected-no-endpoints", text, request, target, variant, source)
}

fn refusal(
    status: u16,
    reason: &'static str,
    message: impl Into<Cow<'static, str>>,
    request: &Request,
    target: &str,
    variant: &str,
    source: &str,
) -> Refusal {
    Refusal {
        model: request.model.to_string(),
        target: target.to_owned(),
        variant: variant.to_owned(),
        pool_split: source.to_owned(),
        ..Refusal::new(status, reason, message)
    }
}

/// The sticky key, empty when the request has none: it then counts as one without a session.
fn key_of(source: Option<&StickyKey>, headers: &Headers, request: &Request) -> Vec<u8> {
    let Some(source) = source else { return Vec::new() };
    let name = source.name.as_bytes();
    match source.source {
        KeySource::Header => headers.text(name).to_vec(),
        KeySource::BodyField => {
            let field = request.fields.iter().find(|(name, _)| **name == *source.name);
            field.map(|(_, value)| value.clone().into_bytes()).unwrap_or_default()
        }
        KeySource::Cookie => {
            let cookies = headers.text(b"cookie").split(|byte| *byte == b';').map(strip);
            let pairs = cookies.map(|cookie| match cookie.iter().position(|byte| *byte == b'=') {
                Some(at) => (&cookie[..at], &cookie[at + 1..]),
                None => (cookie, &cookie[cookie.len()..]),
            });
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_vec()).unwrap_or_default()
        }
    }
}

/// What Python's `ascii()` gives.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut found = String::with_capacity(text.len() + 2);
    found.push(quote);
    for char in text.chars() {
        // Writing to a string does not fail.
        let _ = match char {
            '\\' => write!(found, "\\\\"),
            '\n' => write!(found, "\\n"),
            '\r' => write!(found, "\\r"),
            '\t' => write!(found, "\\t"),
            char if char == quote => write!(found, "\\{char}"),
            ' '..='~' => write!(found, "{char}"),
            '\0'..='\u{ff}' => write!(found, "\\x{:02x}", u32::from(char)),
            '\u{100}'..='\u{ffff}' => write!(found, "\\u{:04x}", u32::from(char)),
            _ => write!(found, "\\U{:08x}", u32::from(char)),
        };
    }
    found.push(quote);
    found
}

const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut sum = at as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
            bit += 1;
        }
        table[at] = sum;
        at += 1;
    }
    table
};

/// CRC-32 as in zlib.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| sum >> 8 ^ CRC[(sum as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::rules::RuleBook;
    use crate::split::SplitTarget;

    #[test]
    fn threads_share_one_exact_sequence() {
        let endpoint = Endpoint {
            address: "10.0.0.1:80".into(),
            host: None,
            port: 80,
            pod: "p".into(),
            pool: "pool".into(),
            ready_since: 0.0,
            draining: false,
        };
        let rule = Rule {
            key: RuleKey::default(),
            model: "m".into(),
            targets: vec![SplitTarget::new("a", 9), SplitTarget::new("b", 1)],
            generic: false,
            sheddable: false,
        };
        let rules = RuleBook::new([rule]);
        let router = Router::new(RouterConfig::default());
        router.update(Snapshot { rules, endpoints: vec![Arc::new(endpoint)], ..Snapshot::default() }, 0.0, 0.0);
        let asked = Request { model: "m".into(), has_body: true, ..Request::default() };

        let requests = if cfg!(miri) { 100 } else { 10_000 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..requests / 4 {
                        router.route(&Headers::default(), &asked, 0.0).unwrap();
                    }
                });
            }
        });

        let counts: Vec<_> = router.lock().shares["m"].values().copied().collect();
        assert_eq!(counts, [requests * 9 / 10, requests / 10]);
    }

    #[test]
    fn sums_are_those_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_panic_in_the_midst_of_an_update_leaves_the_split_as_it_was() {
        let targets = vec![SplitTarget::new("v1", 3), SplitTarget::new("v2", 1)];
        let key = RuleKey::default();
        let mut state = State::default();
        state.splits.insert(key.clone(), Diffusion::new(&targets));
        let mut alone = Diffusion::new(&targets);
        for _ in 0..6 {
            alone.take();
            state.splits.get_mut(&key).unwrap().take();
        }

        let panicked = catch_unwind(AssertUnwindSafe(|| {
            state.replace(|next| {
                next.splits.clear();
                panic!("planted");
            });
        }));

        assert!(panicked.is_err());
        for _ in 0..20 {
            assert_eq!(state.splits.get_mut(&key).unwrap().take(), alone.take());
        }
    }

    #[test]
    fn a_rule_without_a_split_begins_an_exact_one() {
        let targets: Vec<_> = [("v1", 1), ("v2", 1)].map(|(name, weight)| SplitTarget::new(name, weight)).into();
        let rule = Rule { targets, ..Rule::default() };
        let mut state = State::default();
        let nobody = Headers::default();
        let mut take = || state.target(&rule, &ModelPolicy::default(), &nobody, &Request::default());

        let taken: Vec<_> = (0..4).map(|_| take()).collect();

        assert_eq!(taken.iter().filter(|name| &***name == "v1").count(), 2);
    }

    #[test]
    fn names_are_quoted_as_python_does() {
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(quoted("a'\"\\\n\u{7f}\u{e9}\u{3b1}\u{1f600}"), "'a\\'\"\\\\\\n\\x7f\\xe9\\u03b1\\U0001f600'");
    }
}
