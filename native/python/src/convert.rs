//! Values of `rollouts/picker/core` to those of the core, by their attributes.

use std::collections::HashSet;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use rollouts_core::endpoints::{Endpoint, Host, Subset, parse_subset};
use rollouts_core::measure::{Ending, ObservedResponse};
use rollouts_core::messages::Headers;
use rollouts_core::policies::{KeySource, ModelPolicy, StickyKey};
use rollouts_core::reader::Unread;
use rollouts_core::refusals::Refusal;
use rollouts_core::routing::{Decision, Request};
use rollouts_core::rules::{Rule, RuleBook};
use rollouts_core::schedule::{Load, Names};
use rollouts_core::snapshot::Snapshot;
use rollouts_core::split::SplitTarget;
use rollouts_core::variants::{PoolVariant, VariantRule};
use rollouts_core::wire::MetadataValue;

type Value<'py> = Bound<'py, PyAny>;

/// A text that is compared with what requests say; none when it holds a lone surrogate, as no request's text does.
fn exact(value: &Value<'_>) -> PyResult<Option<Arc<str>>> {
    Ok(value.cast::<PyString>()?.to_str().ok().map(Arc::from))
}

/// A text that is sent: lone surrogates become question marks, as `encode("utf-8", "replace")` has it.
fn sent(value: &Value<'_>) -> PyResult<Arc<str>> {
    let text = value.cast::<PyString>()?;
    if let Ok(text) = text.to_str() {
        return Ok(text.into());
    }
    let bytes: Vec<u8> = text.call_method1("encode", ("utf-8", "replace"))?.extract()?;
    Ok(String::from_utf8_lossy(&bytes).into())
}

/// Names as far as they can be compared.
pub fn names(value: &Value<'_>) -> PyResult<HashSet<Arc<str>>> {
    let mut found = HashSet::new();
    for name in value.try_iter()? {
        found.extend(exact(&name?)?);
    }
    Ok(found)
}

/// Members of a sequence.
fn each<'py, T>(value: &Value<'py>, read: impl Fn(&Value<'py>) -> PyResult<T>) -> PyResult<Vec<T>> {
    value.try_iter()?.map(|member| read(&member?)).collect()
}

/// `rollouts.picker.core.objects.Snapshot`.
pub fn snapshot(value: &Value<'_>) -> PyResult<Snapshot> {
    let mut policies = std::collections::HashMap::new();
    for pair in value.getattr("policies")?.call_method0("items")?.try_iter()? {
        let pair = pair?.cast_into::<PyTuple>()?;
        if let Some(model) = exact(&pair.get_item(0)?)? {
            policies.insert(model, Arc::new(policy(&pair.get_item(1)?)?));
        }
    }
    let winners = each(&value.getattr("rules")?.call_method0("winners")?, rule)?;
    Ok(Snapshot {
        pools: each(&value.getattr("pools")?, |pool| sent(&pool.getattr("name")?))?,
        endpoints: each(&value.getattr("endpoints")?, |found| endpoint(found).map(Arc::new))?,
        rules: RuleBook::new(winners.into_iter().flatten()),
        policies,
        variants: each(&value.getattr("variants")?, variant_rule)?,
    })
}

fn endpoint(value: &Value<'_>) -> PyResult<Endpoint> {
    let host: String = value.getattr("host")?.extract()?;
    Ok(Endpoint {
        address: sent(&value.getattr("address")?)?,
        host: Host::parse(&host),
        port: value.getattr("port")?.extract()?,
        pod: sent(&value.getattr("pod")?)?,
        pool: sent(&value.getattr("pool")?)?,
        ready_since: value.getattr("ready_since")?.extract()?,
        draining: value.getattr("draining")?.extract()?,
    })
}

/// None where no request can match.
fn rule(value: &Value<'_>) -> PyResult<Option<Rule>> {
    let Some(model) = exact(&value.getattr("model")?)? else { return Ok(None) };
    let key = value.getattr("key")?.cast_into::<PyTuple>()?;
    let part = |at: usize| sent(&key.get_item(at)?);
    let criticality: String = value.getattr("criticality")?.getattr("value")?.extract()?;
    Ok(Some(Rule {
        key: (part(0)?, part(1)?, part(2)?, Arc::clone(&model)),
        model,
        targets: each(&value.getattr("targets")?, |target| {
            Ok(SplitTarget::new(sent(&target.getattr("name")?)?, target.getattr("weight")?.extract()?))
        })?,
        generic: value.getattr("precedence")?.getattr("generic")?.extract()?,
        sheddable: criticality == "Sheddable",
    }))
}

fn policy(value: &Value<'_>) -> PyResult<ModelPolicy> {
    let sticky = value.getattr("sticky")?;
    Ok(ModelPolicy {
        sticky: if sticky.is_none() { None } else { sticky_key(&sticky)? },
        pinned_by_header: value.getattr("pinned_by_header")?.extract()?,
        pinnable: names(&value.getattr("pinnable")?)?,
        measured: value.getattr("measured")?.extract()?,
    })
}

/// None for a name that no request can have.
fn sticky_key(value: &Value<'_>) -> PyResult<Option<StickyKey>> {
    let source: String = value.getattr("source")?.getattr("value")?.extract()?;
    let source = match &*source {
        "header" => KeySource::Header,
        "cookie" => KeySource::Cookie,
        _ => KeySource::BodyField,
    };
    Ok(exact(&value.getattr("name")?)?.map(|name| StickyKey { source, name }))
}

fn variant_rule(value: &Value<'_>) -> PyResult<VariantRule> {
    let split = value.getattr("split")?;
    let mut members = Vec::new();
    for pair in value.getattr("members")?.call_method0("items")?.try_iter()? {
        let pair = pair?.cast_into::<PyTuple>()?;
        members.push((sent(&pair.get_item(0)?)?, sent(&pair.get_item(1)?)?));
    }
    Ok(VariantRule {
        namespace: sent(&split.getattr("namespace")?)?,
        name: sent(&split.getattr("name")?)?,
        model_name: sent(&split.getattr("model_name")?)?,
        variants: each(&value.getattr("variants")?, |variant| {
            Ok(PoolVariant {
                name: sent(&variant.getattr("name")?)?,
                model: sent(&variant.getattr("model")?)?,
                weight: variant.getattr("weight")?.extract()?,
            })
        })?,
        policy: policy(&value.getattr("policy")?)?,
        members,
    })
}

/// Most requests that a pod's page can speak of: sums of them stay far inside 64 bits.
const MOST: i64 = 1 << 53;

/// `rollouts.picker.core.schedule.Load`; `models` and `adapters` are given, for they seldom change.
pub fn load(value: &Value<'_>, models: Option<Names>, adapters: Names) -> PyResult<Load> {
    let count = |name: &str| -> PyResult<i64> {
        Ok(value.getattr(name)?.extract::<i128>().unwrap_or(i128::MAX).min(i128::from(MOST)) as i64)
    };
    Ok(Load {
        running: count("running")?,
        waiting: count("waiting")?,
        kv_usage: value.getattr("kv_usage")?.extract()?,
        active_adapters: names(&value.getattr("active_adapters")?)?,
        max_adapters: count("max_adapters")?,
        models,
        adapters,
    })
}

/// Lower-case names of headers to values, both bytes.
pub fn headers(value: &Value<'_>) -> PyResult<Headers> {
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for pair in value.call_method0("items")?.try_iter()? {
        found.push(pair?.extract()?);
    }
    Ok(Headers::from_pairs(found))
}

/// `rollouts.picker.core.routing.Request`, without its headers.
pub fn request(value: &Value<'_>) -> PyResult<Request> {
    let unread = value.getattr("unread")?;
    let subset = value.getattr("subset")?;
    let prompt: Vec<u8> = value.getattr("prompt")?.extract()?;
    Ok(Request {
        model: sent(&value.getattr("model")?)?,
        fields: each(&value.getattr("fields")?.call_method0("items")?, |pair| pair.extract())?,
        prompt: prompt.into(),
        subset: if subset.is_none() { None } else { Some(hint(&subset)?) },
        has_body: value.getattr("has_body")?.extract()?,
        unread: if unread.is_none() {
            None
        } else {
            Some(Unread {
                refusal: refusal(&unread.getattr("refusal")?)?,
                hidden: unread.getattr("hidden")?.extract()?,
            })
        },
    })
}

fn hint(value: &Value<'_>) -> PyResult<Subset> {
    let pairs: HashSet<(String, u32)> = value.getattr("pairs")?.extract()?;
    let hosts: HashSet<String> = value.getattr("hosts")?.extract()?;
    let paired = pairs.into_iter().map(|(host, port)| format!("[{host}]:{port}"));
    let entries = hosts.into_iter().chain(paired).map(MetadataValue::Text).collect();
    Ok(parse_subset(Some(&MetadataValue::List(entries))).unwrap_or_default())
}

/// `rollouts.picker.core.routing.Refusal`.
pub fn refusal(value: &Value<'_>) -> PyResult<Refusal> {
    let text = |name: &str| -> PyResult<String> { value.getattr(name)?.extract() };
    Ok(Refusal {
        status: value.getattr("status")?.extract()?,
        reason: text("reason")?.into(),
        message: text("message")?.into(),
        model: text("model")?,
        target: text("target")?,
        variant: text("variant")?,
        pool_split: text("pool_split")?,
    })
}

/// `rollouts.picker.core.routing.Decision`.
pub fn decision(value: &Value<'_>) -> PyResult<Decision> {
    Ok(Decision {
        model: sent(&value.getattr("model")?)?,
        target: sent(&value.getattr("target")?)?,
        endpoint: Arc::new(endpoint(&value.getattr("endpoint")?)?),
        measured: value.getattr("measured")?.extract()?,
        restored: value.getattr("restored")?.extract()?,
        split: value.getattr("split")?.extract()?,
        variant: sent(&value.getattr("variant")?)?,
        pool_split: sent(&value.getattr("pool_split")?)?,
    })
}

/// A refusal's fields, in the order of Python's.
pub type RefusalFields = (u16, String, String, String, String, String, String);
/// A decision's fields, in the order of Python's; of the endpoint its address.
pub type DecisionFields = (String, String, String, bool, bool, bool, String, String);
/// A measurement's fields: ending by name, status, e2e, ttft, time per output token, prompt and completion tokens.
pub type ResponseFields = (&'static str, u16, Option<f64>, Option<f64>, Option<f64>, Option<u64>, Option<u64>);

pub fn refusal_fields(refusal: &Refusal) -> RefusalFields {
    let Refusal { status, reason, message, model, target, variant, pool_split } = refusal.clone();
    (status, reason.into_owned(), message.into_owned(), model, target, variant, pool_split)
}

pub fn decision_fields(decision: &Decision) -> DecisionFields {
    let Decision { model, target, endpoint, measured, restored, split, variant, pool_split } = decision;
    let address = endpoint.address.to_string();
    let (model, target) = (model.to_string(), target.to_string());
    (model, target, address, *measured, *restored, *split, variant.to_string(), pool_split.to_string())
}

pub fn response_fields(response: &ObservedResponse) -> ResponseFields {
    let ending = match response.ending {
        Ending::Complete => "COMPLETE",
        Ending::HeadersOnly => "HEADERS_ONLY",
        Ending::Aborted => "ABORTED",
        Ending::Failed => "FAILED",
    };
    let ObservedResponse { status, e2e, ttft, time_per_output_token, prompt_tokens, completion_tokens, .. } = response;
    (ending, *status, *e2e, *ttft, *time_per_output_token, *prompt_tokens, *completion_tokens)
}
