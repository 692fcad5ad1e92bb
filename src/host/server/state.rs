//! What a family keeps, and how its files access it.

/// Declares where a family keeps its server, its functions and its dialogs, and the functions that look there. The file must
/// have the types `Server`, `Api`, `Dialogs` and `Message`, and the constant `FAKED_REPLY`; messages are of the type `$raw`.
macro_rules! state {
    ($raw:ty) => {
        /// Set by the constructor: the server, or why we refuse it.
        pub static SERVER: OnceCell<Result<Server, String>> = OnceCell::new();

        /// The dialog module, set before any dialog when it is loaded.
        pub static DIALOGS: OnceCell<Dialogs> = OnceCell::new();

        /// Set at the end of initialisation.
        pub static API: OnceCell<Api> = OnceCell::new();

        /// The server, if it is a supported one.
        pub fn server() -> Option<&'static Server> {
            SERVER.get()?.as_ref().ok()
        }

        /// Server and functions; `None` before initialisation, and after accounting was stopped.
        pub fn ready() -> Option<(&'static Server, &'static Api, &'static $crate::worker::Instance)> {
            if $crate::host::proof::stopped() { None } else { Some((server()?, API.get()?, $crate::worker::instance()?)) }
        }

        /// The current message.
        pub fn message(raw: *mut $raw) -> Option<Message<'static>> {
            let (server, api, _) = ready()?;
            (!raw.is_null() && raw != FAKED_REPLY).then_some(Message { raw, symbols: &server.symbols, specs: &api.specs })
        }
    };
}
pub(in crate::host) use state;
