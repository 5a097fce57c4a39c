//! What Python hands over at each change of the cluster. See `rollouts/picker/core/objects.py`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::endpoints::Endpoint;
use crate::policies::ModelPolicy;
use crate::rules::RuleBook;
use crate::variants::VariantRule;

/// Everything the routing knows about the cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Names of the pools.
    pub pools: Vec<Arc<str>>,
    /// Each address once.
    pub endpoints: Vec<Arc<Endpoint>>,
    pub rules: RuleBook,
    /// By the requested model's name.
    pub policies: HashMap<Arc<str>, Arc<ModelPolicy>>,
    pub variants: Vec<VariantRule>,
}
