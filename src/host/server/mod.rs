//! What both host families have in common: the server's string, storage for structures that stay
//! opaque, how symbols are found, and what is read from variables and messages. A family (`opensips`,
//! `kamailio`) contains only what differs.

pub mod message;
pub mod numbered;
mod room;
pub mod state;
pub mod symbols;
mod text;
pub mod versions;

pub use room::Room;
pub use text::Text;
