//! The native picker, as Python sees it.

mod bytes_door;
mod convert;
mod exchange;
mod picker;
mod serve;

use pyo3::prelude::*;

/// The picker's data path in Rust. `rollouts.picker.native` uses it; everything else is for its tests.
#[pymodule]
fn inference_rollouts_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<picker::Picker>()?;
    module.add_class::<exchange::Budget>()?;
    module.add_class::<exchange::Exchange>()?;
    bytes_door::add(module)?;
    module.add_class::<serve::Server>()?;
    module.add_function(wrap_pyfunction!(serve::serve, module)?)?;
    module.add_function(wrap_pyfunction!(serve::serve_failing, module)?)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
