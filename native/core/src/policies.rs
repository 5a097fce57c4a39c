//! What the Rollout objects ask of the picker: a sticky key, a pin header, and how much to measure.
//!
//! They are read in Python, which hands over what follows from them.

use std::collections::HashSet;
use std::sync::Arc;

/// Pins a request to a version, where its Rollout allows that.
pub const PIN_HEADER: &[u8] = b"x-rollout-pin";
/// Policy of every model that has none of its own: set by Rollouts of whole pools.
pub const ALL_MODELS: &str = "";

/// Where the sticky key comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeySource {
    Header,
    Cookie,
    BodyField,
}

/// A place in the request; `name` of a header is lower case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StickyKey {
    pub source: KeySource,
    pub name: Arc<str>,
}

/// What holds for the requests of one model name. `measured` is a fraction of requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelPolicy {
    pub sticky: Option<StickyKey>,
    pub pinned_by_header: bool,
    pub pinnable: HashSet<Arc<str>>,
    pub measured: f64,
}
