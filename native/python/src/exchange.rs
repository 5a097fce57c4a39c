//! `Exchange`: one stream in bytes, without a server, so that the tests of Python's run on this one, too.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use rollouts_core::body::Wanted;
use rollouts_core::encoding::Encoded;
use rollouts_core::measure::ObservedResponse;
use rollouts_core::messages::Headers;
use rollouts_core::picker::Stream;
use rollouts_core::ports::{BufferBudget, Observer, Routing};
use rollouts_core::protocol::Surroundings;
use rollouts_core::refusals::Refusal;
use rollouts_core::routing::{Decision, Request};
use rollouts_core::stream::{Flow, StreamLogic};

use crate::convert;
use crate::picker::Picker;

/// Bytes of request bodies held by several exchanges.
#[pyclass(frozen, module = "inference_rollouts_native")]
pub struct Budget(Arc<BufferBudget>);

#[pymethods]
impl Budget {
    #[new]
    #[pyo3(signature = (*, body_limit=64 << 20, total_limit=192 << 20))]
    fn new(body_limit: usize, total_limit: usize) -> Self {
        Self(Arc::new(BufferBudget::new(body_limit, total_limit)))
    }

    #[getter]
    fn used(&self) -> usize {
        self.0.used()
    }
}

/// Who decides: a native picker, or a function of Python.
enum Decider {
    Native(Py<Picker>),
    Python { route: Py<PyAny>, fields: Wanted },
}

struct Port {
    decider: Decider,
    told: Mutex<Vec<Told>>,
    raised: Mutex<Option<PyErr>>,
}

enum Told {
    Refused(Refusal),
    Dispatched(Decision),
    Measured(Decision, ObservedResponse),
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port {
    fn ask(
        &self,
        route: &Py<PyAny>,
        headers: &Headers,
        request: &Request,
        now: f64,
    ) -> PyResult<Result<Decision, Refusal>> {
        Python::attach(|py| {
            let given = PyDict::new(py);
            for (name, value) in headers.pairs() {
                given.set_item(PyBytes::new(py, name), PyBytes::new(py, value))?;
            }
            let unread =
                request.unread.as_ref().map(|unread| (convert::refusal_fields(&unread.refusal), unread.hidden));
            let subset = request.subset.as_ref().map(|subset| subset.parts());
            let prompt = PyBytes::new(py, &request.prompt);
            let fields = request.fields.clone();
            let asked = (given, &*request.model, fields, prompt, subset, request.has_body, unread, now);
            let answer = route.bind(py).call1(asked)?;
            let said = if answer.hasattr("status")? {
                Err(convert::refusal(&answer)?)
            } else {
                Ok(convert::decision(&answer)?)
            };
            Ok(said)
        })
    }
}

impl Routing for Port {
    fn body_fields(&self) -> Wanted {
        match &self.decider {
            Decider::Native(picker) => picker.get().core.router().body_fields(),
            Decider::Python { fields, .. } => Arc::clone(fields),
        }
    }

    fn route(&self, headers: &Headers, request: &Request, now: f64) -> Result<Decision, Refusal> {
        match &self.decider {
            Decider::Native(picker) => picker.get().core.router().route(headers, request, now),
            Decider::Python { route, .. } => self.ask(route, headers, request, now).unwrap_or_else(|error| {
                *held(&self.raised) = Some(error);
                Err(Refusal::new(500, "failed", "the function that routes raised an exception"))
            }),
        }
    }
}

impl Observer for Port {
    fn refused(&self, refusal: &Refusal) {
        if let Decider::Native(picker) = &self.decider {
            picker.get().core.counters().refused(refusal);
        }
        held(&self.told).push(Told::Refused(refusal.clone()));
    }

    fn dispatched(&self, decision: &Decision) {
        if let Decider::Native(picker) = &self.decider {
            picker.get().core.counters().dispatched(decision);
        }
        held(&self.told).push(Told::Dispatched(decision.clone()));
    }

    fn measured(&self, decision: &Decision, measurement: &ObservedResponse) {
        if let Decider::Native(picker) = &self.decider {
            picker.get().core.counters().measured(decision, measurement);
        }
        held(&self.told).push(Told::Measured(decision.clone(), measurement.clone()));
    }
}

/// The life of one HTTP request, in bytes of ext_proc messages.
#[pyclass(frozen, module = "inference_rollouts_native")]
pub struct Exchange {
    stream: Mutex<Stream<Port, Port>>,
    port: Arc<Port>,
}

#[pymethods]
impl Exchange {
    /// routing: a Picker, or a function of (headers, model, fields, prompt, subset, has_body, unread, now) that gives a
    /// Decision or a Refusal; then `body_fields` are the members of a body to read for it.
    #[new]
    #[pyo3(signature = (routing, budget, *, body_fields=Vec::new(), keep=false, variant_header=Vec::new()))]
    fn new(
        routing: &Bound<'_, PyAny>,
        budget: &Budget,
        body_fields: Vec<String>,
        keep: bool,
        variant_header: Vec<u8>,
    ) -> Self {
        let decider = match routing.cast::<Picker>() {
            Ok(picker) => Decider::Native(picker.clone().unbind()),
            Err(_) => Decider::Python { route: routing.clone().unbind(), fields: body_fields.into() },
        };
        let port = Arc::new(Port { decider, told: Mutex::default(), raised: Mutex::default() });
        let around = Surroundings {
            routing: Arc::clone(&port),
            observer: Arc::clone(&port),
            budget: Arc::clone(&budget.0),
            keep,
            variant_header: variant_header.into(),
        };
        Self { stream: Mutex::new(Stream::new(Arc::new(around))), port }
    }

    /// The replies to the bytes of one message. Raises ValueError for one that cannot be read or has no place here.
    fn receive<'py>(&self, py: Python<'py>, message: &[u8], now: f64) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let (message, mut out) = (Bytes::copy_from_slice(message), Vec::new());
        if let Flow::Abort(text) = held(&self.stream).receive(message, now, &mut out) {
            return Err(PyValueError::new_err(text));
        }
        self.replies(py, &out)
    }

    /// The last reply of a peer that half-closed, or none.
    fn half_closed<'py>(&self, py: Python<'py>, now: f64) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let mut out = Vec::new();
        held(&self.stream).half_closed(now, &mut out);
        self.replies(py, &out)
    }

    /// The refusal of a request that was not complete within `seconds`, or none.
    fn expire<'py>(&self, py: Python<'py>, seconds: f64) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let mut out = Vec::new();
        held(&self.stream).expire(seconds, &mut out);
        self.replies(py, &out)
    }

    fn disconnect(&self, now: f64) {
        held(&self.stream).closed(now);
    }

    #[getter]
    fn closing(&self) -> bool {
        held(&self.stream).exchange().closing()
    }

    #[getter]
    fn waiting(&self) -> bool {
        held(&self.stream).waiting()
    }

    #[getter]
    fn expects_response(&self) -> bool {
        held(&self.stream).expects_response()
    }

    /// Name of the member of Python's `State`.
    #[getter]
    fn state(&self) -> &'static str {
        held(&self.stream).exchange().state().name()
    }

    /// What the observer was told since the last call: tuples of a word and fields.
    fn told<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let told = std::mem::take(&mut *held(&self.port.told));
        let tuple = |told: &Told| match told {
            Told::Refused(refusal) => ("refused", convert::refusal_fields(refusal)).into_pyobject(py),
            Told::Dispatched(decision) => ("dispatched", convert::decision_fields(decision)).into_pyobject(py),
            Told::Measured(decision, response) => {
                ("measured", convert::decision_fields(decision), convert::response_fields(response)).into_pyobject(py)
            }
        };
        told.iter().map(tuple).collect()
    }
}

impl Exchange {
    fn replies<'py>(&self, py: Python<'py>, out: &[Encoded]) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        if let Some(error) = held(&self.port.raised).take() {
            return Err(error);
        }
        Ok(out.iter().map(|reply| PyBytes::new(py, &reply.to_bytes())).collect())
    }
}
