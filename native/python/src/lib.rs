//! The native picker, as Python sees it.

use pyo3::prelude::*;

/// The module.
#[pymodule]
fn inference_rollouts_native(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
