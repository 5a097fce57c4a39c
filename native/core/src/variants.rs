//! Which version of a pool's pods gets a request: the split of one PoolSplit. See `rollouts/picker/core/variants.py`.
//!
//! Which pod is of which variant is decided in Python, which hands it over.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::endpoints::Subset;
use crate::policies::ModelPolicy;
use crate::schedule::{Pods, Scheduler};
use crate::split::{Diffusion, MAX_TARGETS, SplitTarget, sticky};

/// Before the names in hashes of sticky keys: an adapter and a variant of one name must not get the same sessions.
/// Changing it moves every session.
const SALT: &str = "variant/";

/// One version of the pool's pods. `model`: the name that is sent to its pods, empty for the one that clients ask for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolVariant {
    pub name: Arc<str>,
    pub model: Arc<str>,
    pub weight: u64,
}

/// A PoolSplit that counts, and the Ready pods of its pool.
///
/// `variants` are those of the PoolSplit, and the Rollout's target where it is not listed yet: pins may name it.
/// `members` gives each address its variant's name, empty for those of none, in their order.
#[derive(Clone, Debug, Default)]
pub struct VariantRule {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Only requests for this model; empty: all.
    pub model_name: Arc<str>,
    pub variants: Vec<PoolVariant>,
    pub policy: ModelPolicy,
    pub members: Vec<(Arc<str>, Arc<str>)>,
}

/// The state of one split. A variant is named by its place in `rule.variants`.
#[derive(Clone, Debug, Default)]
pub struct VariantSplit {
    pub rule: VariantRule,
    /// Requests per variant since the weights last changed.
    pub counts: BTreeMap<Arc<str>, u64>,
    /// No variant with a weight has a Ready pod: all Ready pods serve, if there are any.
    pub without_pods: bool,
    pub renames: bool,
    members: HashMap<Arc<str>, Arc<str>>,
    pods: Vec<Pods>, // the Ready pods of each variant, weighted or not
    weighted: Pods,
    sequences: HashMap<Arc<str>, Diffusion>, // by the target that a rule gave, empty for none
    targets: Vec<SplitTarget>,
    order: Vec<usize>, // the weighted variants, the heaviest first
    told: HashSet<Arc<str>>,
}

impl VariantSplit {
    /// Note which variants have said what they serve, before their pods go.
    fn hear(&mut self, scheduler: &Scheduler) {
        for variant in 0..self.rule.variants.len() {
            if self.is_told(variant, scheduler) {
                self.told.insert(Arc::clone(&self.rule.variants[variant].name));
            }
        }
    }

    /// Take over a new state of object and pods. An unchanged split goes on.
    fn update(&mut self, rule: VariantRule, scheduler: &Scheduler) {
        self.rule = rule;
        let variants = &self.rule.variants;
        self.told.retain(|name| variants.iter().any(|variant| variant.name == *name));
        self.renames = variants.iter().any(|variant| !variant.model.is_empty());
        self.members = self.rule.members.iter().cloned().collect();
        self.pods = vec![Pods::new(); variants.len()];
        for (address, name) in &self.rule.members {
            let variant = variants.iter().position(|variant| variant.name == *name);
            if let (Some(variant), Some(place)) = (variant, scheduler.place(address)) {
                self.pods[variant].push(place);
            }
        }
        self.order = (0..variants.len()).filter(|at| variants[*at].weight > 0).collect();
        self.order.sort_by_key(|at| std::cmp::Reverse(variants[*at].weight));
        self.weighted = self.order.iter().flat_map(|at| self.pods[*at].iter().copied()).collect();
        self.without_pods = self.weighted.is_empty();
        let salted = |variant: &PoolVariant| SplitTarget::new(format!("{SALT}{}", variant.name), variant.weight);
        self.targets = variants.iter().map(salted).collect();
        if self.order.is_empty() {
            self.sequences.clear();
            return;
        }
        let mut began = false;
        self.sequences.entry(Arc::default()).or_insert_with(|| Diffusion::new(&self.targets));
        for sequence in self.sequences.values_mut() {
            began |= sequence.update(&self.targets);
        }
        if began {
            self.counts.clear();
        }
    }

    /// Whether a pod of the variant has listed its models since there is the variant: later ones serve the same.
    pub fn is_told(&self, variant: usize, scheduler: &Scheduler) -> bool {
        let listed = |at: &usize| scheduler.pods()[*at].listed;
        self.told.contains(&self.rule.variants[variant].name) || self.pods[variant].iter().any(listed)
    }

    /// The variant that a pin header names, where the Rollout allows pins.
    pub fn pinned(&self, pin: &[u8]) -> Option<usize> {
        if pin.is_empty() || !self.rule.policy.pinned_by_header {
            return None;
        }
        self.named(&String::from_utf8_lossy(pin))
    }

    fn named(&self, name: &str) -> Option<usize> {
        self.rule.variants.iter().position(|variant| &*variant.name == name)
    }

    /// A variant's Ready pods that a subset hint allows.
    pub fn pods_of(&self, variant: usize, subset: Option<&Subset>, scheduler: &Scheduler) -> Pods {
        within(&self.pods[variant], subset, scheduler)
    }

    /// The pods that a request without a pin may go to.
    pub fn allowed(&self, subset: Option<&Subset>, scheduler: &Scheduler) -> Pods {
        within(&self.weighted, subset, scheduler)
    }

    /// The variant of the next request with this key, of the next without one where it is empty.
    ///
    /// Each target of a rule has a sequence of its own: in one, two splits of the same shares would keep step, and all
    /// requests of one target would go to one variant.
    pub fn take(&mut self, key: &[u8], target: &Arc<str>) -> usize {
        if !key.is_empty() {
            return sticky(&self.targets, key);
        }
        if self.sequences.len() > MAX_TARGETS {
            self.sequences.clear(); // names come from objects, which come and go
        }
        let sequence = self.sequences.entry(Arc::clone(target)).or_insert_with(|| Diffusion::new(&self.targets));
        let name = sequence.take();
        self.targets.iter().position(|target| target.name == *name).unwrap_or_default()
    }

    /// The variant and the pods that can serve; none where nobody may.
    ///
    /// `serving` gives the pods that list the name that is sent to a variant. A chosen variant none of whose pods does,
    /// while another's do, is spilled to that, or shed. A name that nobody lists is the pods' to answer.
    pub fn place(
        &self,
        chosen: usize,
        subset: Option<&Subset>,
        scheduler: &Scheduler,
        serving: impl Fn(usize, &[usize]) -> Pods,
        shed: bool,
    ) -> Option<(usize, Pods)> {
        for listed in [true, false] {
            for variant in std::iter::once(chosen).chain(self.order.iter().copied()) {
                let pods = self.pods_of(variant, subset, scheduler);
                let able = if listed { serving(variant, &pods) } else { pods };
                if !able.is_empty() {
                    return if shed && variant != chosen { None } else { Some((variant, able)) };
                }
            }
        }
        None
    }

    /// The variant of a pod, by its address.
    pub fn of(&self, address: &str) -> Option<usize> {
        self.members.get(address).filter(|name| !name.is_empty()).and_then(|name| self.named(name))
    }
}

fn within(pods: &[usize], subset: Option<&Subset>, scheduler: &Scheduler) -> Pods {
    match subset {
        None => pods.to_vec(),
        Some(subset) => pods.iter().copied().filter(|at| subset.allows(&scheduler.pods()[*at].endpoint)).collect(),
    }
}

/// All splits of the pools that a picker serves. A split is named by its place.
#[derive(Clone, Debug, Default)]
pub struct VariantTable {
    pub splits: Vec<VariantSplit>,
    /// Whether a request's model must be known to place it, or may have to be replaced.
    pub needs_model: bool,
    /// Model names that the splits match or send: bounded, unlike those that clients make up.
    pub names: HashSet<Arc<str>>,
}

impl VariantTable {
    /// Note what the pods have said, before the scheduler forgets those that went.
    pub fn hear(&mut self, scheduler: &Scheduler) {
        self.splits.iter_mut().for_each(|split| split.hear(scheduler));
    }

    /// Take over a new state; the scheduler has it already.
    pub fn update(&mut self, rules: Vec<VariantRule>, scheduler: &Scheduler) {
        let known = std::mem::take(&mut self.splits).into_iter();
        let key = |rule: &VariantRule| (Arc::clone(&rule.namespace), Arc::clone(&rule.name));
        let mut known: HashMap<_, _> = known.map(|split| (key(&split.rule), split)).collect();
        for rule in rules {
            let mut split = known.remove(&key(&rule)).unwrap_or_default();
            split.update(rule, scheduler);
            self.splits.push(split);
        }
        self.names.clear();
        for split in &self.splits {
            self.names.insert(Arc::clone(&split.rule.model_name));
            self.names.extend(split.rule.variants.iter().map(|variant| Arc::clone(&variant.model)));
        }
        self.names.remove("");
        self.needs_model = self.splits.iter().any(|split| !split.rule.model_name.is_empty() || split.renames);
    }

    /// The split of a request, one for its model before one for all.
    ///
    /// A subset hint tells pools apart where a picker serves several: a split is none of another pool's business.
    pub fn find(
        &self,
        model: &str,
        subset: Option<&Subset>,
        candidates: &[usize],
        scheduler: &Scheduler,
    ) -> Option<usize> {
        let generic = |at: &usize| self.splits[*at].rule.model_name.is_empty();
        let exact = |at: &usize| !model.is_empty() && &*self.splits[*at].rule.model_name == model;
        let member = |split: &VariantSplit| {
            let addresses = candidates.iter().map(|at| &scheduler.pods()[*at].endpoint.address);
            addresses.into_iter().any(|address| split.members.contains_key(address))
        };
        let places = || 0..self.splits.len();
        let mut found = places().filter(exact).chain(places().filter(generic));
        found.find(|at| subset.is_none() || member(&self.splits[*at]))
    }
}
