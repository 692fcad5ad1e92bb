//! What a family keeps, and how its files get at it.

/// Declares where a family's server, its functions and its dialogs stand, and what looks there. The file has the
/// types `Server`, `Api`, `Dialogs` and `Message`, and the constant `FAKED_REPLY`; messages are `$raw`.
macro_rules! state {
    ($raw:ty) => {
        /// Set by the constructor: the server, or why we refuse it.
        pub static SERVER: OnceCell<Result<Server, String>> = OnceCell::new();

        /// The dialog module, set before any dialog when it is loaded.
        pub static DIALOGS: OnceCell<Dialogs> = OnceCell::new();

        /// Set at the end of initialisation.
        pub static API: OnceCell<Api> = OnceCell::new();

        /// The server, when it is a supported one.
        pub fn server() -> Option<&'static Server> {
            SERVER.get()?.as_ref().ok()
        }

        /// Server and functions; `None` before initialisation, and once accounting was stopped.
        pub fn ready() -> Option<(&'static Server, &'static Api, &'static $crate::worker::Instance)> {
            if $crate::host::proof::stopped() { None } else { Some((server()?, API.get()?, $crate::worker::instance()?)) }
        }

        /// The message at hand.
        pub fn message(raw: *mut $raw) -> Option<Message<'static>> {
            let (server, api, _) = ready()?;
            (!raw.is_null() && raw != FAKED_REPLY).then_some(Message { raw, symbols: &server.symbols, specs: &api.specs })
        }
    };
}
pub(in crate::host) use state;
