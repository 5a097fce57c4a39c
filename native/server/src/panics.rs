//! Panics of ours: each is a bug, is told once, as one line of the log, and takes nothing else with it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::task::Poll;
use std::thread;

use crate::Event;

/// Who is told of what a thread's panics say.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) failures: Arc<AtomicU64>,
    pub(crate) events: Arc<dyn Fn(Event) + Send + Sync>,
}

impl Told {
    pub(crate) fn failed(&self, event: Event) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        (self.events)(event);
    }
}

thread_local! {
    /// Set on threads of a server.
    static TOLD: RefCell<Option<Told>> = const { RefCell::new(None) };
    /// Whether somebody up the stack takes the panic and tells of it.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
    static SAID: Cell<Option<String>> = const { Cell::new(None) };
}

/// Of the process, which may have threads and panics of others: those go where they went before.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !heard(info) {
                before(info);
            }
        }));
    });
}

/// From now on what panics on this thread goes to `told`.
pub(crate) fn tell(told: Told) {
    listen();
    TOLD.set(Some(told));
}

/// Whether a panic is one of ours: nothing more goes to stderr, which is the log.
fn heard(info: &PanicHookInfo<'_>) -> bool {
    let text = described(info);
    if TAKEN.get() {
        SAID.set(Some(text));
        return true;
    }
    // Not `with_borrow`: a thread that ends has no value any more.
    let told = TOLD.try_with(|told| told.try_borrow().ok().and_then(|told| told.clone())).ok().flatten();
    told.map(|told| told.failed(Event::Panicked { thread: thread_name(), exception: text })).is_some()
}

fn thread_name() -> String {
    thread::current().name().unwrap_or("unnamed").to_owned()
}

fn described(info: &PanicHookInfo<'_>) -> String {
    let said = info.payload().downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| info.payload().downcast_ref::<&str>().copied()).unwrap_or("no message");
    let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
    let trace = Backtrace::capture(); // where RUST_BACKTRACE asks for one
    match trace.status() {
        BacktraceStatus::Captured => format!("{said}{place}\n{trace}"),
        _ => format!("{said}{place}"),
    }
}

/// What `act` gives, or what it said when it panicked. Nobody else is told.
pub fn caught<R>(act: impl FnOnce() -> R) -> Result<R, String> {
    listen();
    let before = TAKEN.replace(true);
    let done = catch_unwind(AssertUnwindSafe(act));
    TAKEN.set(before);
    done.map_err(|_| SAID.take().unwrap_or_else(|| "no message".to_owned()))
}

/// What `work` gives, or nothing when it panicked, of which the thread's hook tells.
pub(crate) async fn survived<R>(work: impl Future<Output = R>) -> Option<R> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(done)) => Poll::Ready(Some(done)),
        Err(_) => Poll::Ready(None),
    })
    .await
}
