//! What this client relies on in ureq that its types do not promise. The tests below hold ureq to
//! it: look here first when a new version of ureq behaves differently.
//!
//! 1. **One thread makes a whole call.** ureq resolves the name, asks the pool for a connection, opens
//!    one where the pool has none, and sends the request, in this order and on the thread that called
//!    it. So a value of the thread tells how far its call has come when it fails, which ureq's errors
//!    do not: whether anything was sent, and whether the connection had been idle.
//! 2. **The resolver is asked for each call, the connector only for a new connection.** So a call that
//!    was resolved and not connected has a connection from the pool.
//! 3. **A request that says nothing about TLS may use the agent's TLS configuration.** ureq makes a new
//!    one for each request with settings of its own, such as a timeout, and with it the sessions for
//!    resumption are gone. [`of_the_agent`] tells it that the settings are the agent's.

use std::cell::Cell;

use ureq::unversioned::transport::ConnectionDetails;

/// How far the call that a thread is making has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The server's name is being resolved.
    Resolving,
    /// It has a connection that was opened before it.
    Kept,
    /// It is opening one.
    Opening,
    /// It has opened one.
    Opened,
}

thread_local! {
    static PROGRESS: Cell<Progress> = const { Cell::new(Progress::Resolving) };
}

/// This thread begins a call.
pub(super) fn begin_call() {
    set_progress(Progress::Resolving);
}

/// How far this thread's call has come, or came.
pub(super) fn progress() -> Progress {
    PROGRESS.get()
}

/// This thread's call has come so far.
pub(super) fn set_progress(progress: Progress) {
    PROGRESS.set(progress);
}

/// `details` as for a request without settings of its own.
pub(super) fn of_the_agent<'a>(details: &ConnectionDetails<'a>) -> ConnectionDetails<'a> {
    ConnectionDetails {
        uri: details.uri,
        addrs: details.addrs.clone(),
        config: details.config,
        request_level: false,
        resolver: details.resolver,
        now: details.now,
        timeout: details.timeout,
        current_time: details.current_time.clone(),
        run_connector: details.run_connector.clone(),
        register_shutdown: details.register_shutdown.clone(),
    }
}
