//! Which rule splits the requests for a model name.
//!
//! The order among objects is settled in Python, which hands over the rules that can match.

use std::collections::HashMap;
use std::sync::Arc;

use crate::split::SplitTarget;

/// Kind, namespace, name and model: names a rule across changes of its weights; its split goes on under it.
pub type RuleKey = (Arc<str>, Arc<str>, Arc<str>, Arc<str>);

/// Requests for `model` (any model when generic) go to `targets`; none: under the name they have.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub key: RuleKey,
    pub model: Arc<str>,
    pub targets: Vec<SplitTarget>,
    pub generic: bool,
    /// May be dropped when all pods are saturated.
    pub sheddable: bool,
}

/// All rules of the pools, the first in precedence per model.
#[derive(Clone, Debug, Default)]
pub struct RuleBook {
    exact: HashMap<Arc<str>, Arc<Rule>>,
    generic: Option<Arc<Rule>>,
    winners: Vec<Arc<Rule>>,
}

impl RuleBook {
    /// From the rules that can match, one per model and at most one generic, in their order.
    pub fn new(winners: impl IntoIterator<Item = Rule>) -> Self {
        let mut book = Self::default();
        for rule in winners.into_iter().map(Arc::new) {
            if rule.generic {
                book.generic.get_or_insert_with(|| Arc::clone(&rule));
            } else {
                book.exact.entry(Arc::clone(&rule.model)).or_insert_with(|| Arc::clone(&rule));
            }
            book.winners.push(rule);
        }
        book
    }

    /// The rule for a model name, if any.
    pub fn find(&self, model: &str) -> Option<&Arc<Rule>> {
        self.exact.get(model).or(self.generic.as_ref())
    }

    /// All rules that can match.
    pub fn winners(&self) -> &[Arc<Rule>] {
        &self.winners
    }
}
