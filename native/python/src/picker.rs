//! `Picker`: what Python hands to the native core, and what it reads of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use rollouts_core::counters::{Histogram, Labels, Series};
use rollouts_core::picker::{Picker as Core, PickerConfig};
use rollouts_core::ports::{BufferBudget, Routing};
use rollouts_core::routing::{RouterConfig, Unready};
use rollouts_core::schedule::Names;
use rollouts_server::panics::caught;

use crate::convert;

/// Model names and adapters of a pod as they were read last, to see whether they were read anew.
struct Listed {
    models: Py<PyAny>,
    adapters: Py<PyAny>,
    read: (Option<Names>, Names),
}

/// One picker's routing, counters and memory for bodies, shared by all streams and threads.
#[pyclass(frozen, module = "inference_rollouts_native")]
pub struct Picker {
    pub core: Arc<Core>,
    listed: Mutex<HashMap<String, Listed>>,
    failures: AtomicU64,
}

impl Picker {
    /// What a call of the core gives. A panic of it is a RuntimeError: pyo3's own is none that `except Exception` catches.
    fn guarded<R>(&self, ask: impl FnOnce() -> R) -> PyResult<R> {
        caught(ask).map_err(|said| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            let text =
                format!("a bug in the native data path: it goes on with the state of the cluster before: {said}");
            PyRuntimeError::new_err(text)
        })
    }
}

type Shares = HashMap<String, HashMap<String, u64>>;

#[pymethods]
impl Picker {
    /// unready: "spill" or "shed". Limits in bytes; body_limit of one request, total_limit of all. Raises ValueError.
    #[new]
    #[pyo3(signature = (*, unready="spill", restore_model=false, body_limit=64 << 20, total_limit=192 << 20,
                        keep_streams=false, variant_header=""))]
    fn new(
        unready: &str,
        restore_model: bool,
        body_limit: usize,
        total_limit: usize,
        keep_streams: bool,
        variant_header: &str,
    ) -> PyResult<Self> {
        let unready = match unready {
            "spill" => Unready::Spill,
            "shed" => Unready::Shed,
            other => return Err(PyValueError::new_err(format!("unready must be spill or shed, not {other:?}"))),
        };
        let config = PickerConfig {
            router: RouterConfig { unready, restore_model, ..RouterConfig::default() },
            budget: BufferBudget::new(body_limit, total_limit),
            keep_streams,
            variant_header: variant_header.as_bytes().to_vec().into(),
        };
        Ok(Self { core: Arc::new(Core::new(config)), listed: Mutex::default(), failures: AtomicU64::new(0) })
    }

    /// Calls that ended with a bug of ours.
    #[getter]
    fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Take over a Snapshot. `now`: monotonic seconds, `wall`: Unix time. Raises RuntimeError for a bug of ours.
    fn update(&self, py: Python<'_>, snapshot: &Bound<'_, PyAny>, now: f64, wall: f64) -> PyResult<()> {
        let snapshot = convert::snapshot(snapshot)?;
        let addresses: std::collections::HashSet<_> =
            snapshot.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.address)).collect();
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.retain(|address, _| addresses.contains(&**address));
        drop(listed);
        py.detach(|| self.guarded(|| self.core.router().update(snapshot, now, wall)))
    }

    /// Take over the Load of a pod. `before`: what `dispatched` said when its page was asked for; None: all so far.
    /// Raises RuntimeError for a bug of ours, as all do that enter the core.
    #[pyo3(signature = (address, load, now, *, before=None))]
    fn observe(
        &self,
        py: Python<'_>,
        address: &str,
        load: &Bound<'_, PyAny>,
        now: f64,
        before: Option<i64>,
    ) -> PyResult<()> {
        let (models, adapters) = self.names(py, address, load)?;
        let load = convert::load(load, models, adapters)?;
        py.detach(|| self.guarded(|| self.core.router().observe(address, load, now, before)))
    }

    /// Requests sent to a pod since its last page was asked for.
    fn dispatched(&self, address: &str) -> PyResult<i64> {
        self.guarded(|| {
            let state = self.core.router().lock();
            state.scheduler.place(address).map_or(0, |place| state.scheduler.pods()[place].dispatched)
        })
    }

    /// The same of all pods, by address.
    fn all_dispatched(&self) -> PyResult<HashMap<String, i64>> {
        self.guarded(|| {
            let state = self.core.router().lock();
            state.scheduler.pods().iter().map(|pod| (pod.endpoint.address.to_string(), pod.dispatched)).collect()
        })
    }

    /// By pool: requests that pods about to go got all the same.
    fn to_draining(&self) -> PyResult<HashMap<String, u64>> {
        self.guarded(|| {
            let state = self.core.router().lock();
            state.scheduler.to_draining().iter().map(|(pool, count)| (pool.to_string(), *count)).collect()
        })
    }

    /// Requests per rule's model and target since the weights last changed.
    fn shares(&self) -> PyResult<Shares> {
        self.guarded(|| {
            let state = self.core.router().lock();
            let texts = |counts: &std::collections::BTreeMap<Arc<str>, u64>| {
                counts.iter().map(|(name, count)| (name.to_string(), *count)).collect()
            };
            state.shares.iter().map(|(model, counts)| (model.to_string(), texts(counts))).collect()
        })
    }

    /// Requests per variant since the weights last changed, by the PoolSplit's namespace and name.
    fn variant_counts(&self) -> PyResult<HashMap<(String, String), HashMap<String, u64>>> {
        self.guarded(|| {
            let state = self.core.router().lock();
            let splits = state.variants.splits.iter();
            let counted = splits.map(|split| {
                let counts = split.counts.iter().map(|(name, count)| (name.to_string(), *count)).collect();
                ((split.rule.namespace.to_string(), split.rule.name.to_string()), counts)
            });
            counted.collect()
        })
    }

    /// All series of the picker's own metrics: pairs of labels (model, target, pool, pod, variant, split) and figures.
    ///
    /// Figures: `requests` by code (0: nobody looked), totals, and histograms as (counts by bucket, sum).
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Vec<String>, Bound<'py, PyDict>)>> {
        let series = py.detach(|| self.guarded(|| self.core.counters().export()))?;
        series.iter().map(|(labels, series)| Ok((texts(labels), figures(py, series)?))).collect()
    }

    /// Upper bounds of the buckets, by the names of `counters`.
    #[staticmethod]
    fn buckets() -> HashMap<&'static str, Vec<f64>> {
        use rollouts_core::counters::{E2E, PER_TOKEN, TOKENS, TTFT};
        let named = [("ttft", TTFT), ("per_token", PER_TOKEN), ("e2e", E2E), ("prompt", TOKENS)];
        named.into_iter().map(|(name, bounds)| (name, bounds.to_vec())).collect()
    }

    /// Drop the series of pods that have been gone for a while. Call it now and then.
    fn forget(&self, py: Python<'_>, now: f64) -> PyResult<()> {
        py.detach(|| self.guarded(|| self.core.counters().forget(now)))
    }

    /// Decide on a Request: the fields of a Decision (of the endpoint its address), or those of a Refusal.
    fn route<'py>(&self, py: Python<'py>, request: &Bound<'py, PyAny>, now: f64) -> PyResult<Bound<'py, PyTuple>> {
        let (headers, asked) = (convert::headers(&request.getattr("headers")?)?, convert::request(request)?);
        match self.guarded(|| self.core.router().route(&headers, &asked, now))? {
            Ok(decision) => convert::decision_fields(&decision).into_pyobject(py),
            Err(refusal) => convert::refusal_fields(&refusal).into_pyobject(py),
        }
    }

    /// What health says from now on.
    fn set_ready(&self, ready: bool) {
        self.core.set_ready(ready);
    }

    /// Bytes of request bodies held at the moment.
    #[getter]
    fn held(&self) -> usize {
        self.core.budget().used()
    }
}

impl Picker {
    /// A pod's model names, and those of adapters; the same objects as before give the same.
    fn names(&self, py: Python<'_>, address: &str, load: &Bound<'_, PyAny>) -> PyResult<(Option<Names>, Names)> {
        let (models, adapters) = (load.getattr("models")?, load.getattr("adapters")?);
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = listed.get(address);
        if let Some(known) = known.filter(|known| known.models.is(&models) && known.adapters.is(&adapters)) {
            return Ok(known.read.clone());
        }
        let read_models = if models.is_none() { None } else { Some(Arc::new(convert::names(&models)?)) };
        let mut read = (read_models, Arc::new(convert::names(&adapters)?));
        if let Some(known) = known.filter(|known| known.read == read) {
            read = known.read.clone(); // read anew, and the same: nothing follows from it
        }
        let entry = Listed { models: models.unbind(), adapters: adapters.unbind(), read: read.clone() };
        drop(listed.insert(address.to_owned(), entry));
        let _ = py;
        Ok(read)
    }
}

fn texts(labels: &Labels) -> Vec<String> {
    let Labels { model, target, pool, pod, variant, split } = labels;
    [model, target, pool, pod, variant, split].map(|label| label.to_string()).into()
}

fn figures<'py>(py: Python<'py>, series: &Series) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    found.set_item("requests", series.requests.clone())?;
    for (name, total) in [
        ("errors", series.errors),
        ("aborts", series.aborts),
        ("prompt_tokens", series.prompt_tokens),
        ("completion_tokens", series.completion_tokens),
    ] {
        if let Some(total) = total {
            found.set_item(name, total)?;
        }
    }
    for (name, histogram) in
        [("ttft", &series.ttft), ("per_token", &series.per_token), ("e2e", &series.e2e), ("prompt", &series.prompt)]
    {
        if let Some(Histogram { counts, sum, .. }) = histogram {
            found.set_item(name, (counts.clone(), *sum))?;
        }
    }
    Ok(found)
}
