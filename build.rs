//! Turns the headers of `include/` that describe the servers into Rust declarations, which the host
//! families (`src/host/*/abi.rs`) and `src/host/database/abi.rs` include.

use std::env;
use std::path::PathBuf;

use bindgen::callbacks::{DeriveTrait, ImplementsTrait, ParseCallbacks};

/// What a header takes from elsewhere is as simple as what it declares.
#[derive(Debug)]
struct Simple;

impl ParseCallbacks for Simple {
    fn blocklisted_type_implements_trait(&self, _name: &str, _derive: DeriveTrait) -> Option<ImplementsTrait> {
        Some(ImplementsTrait::Yes)
    }
}

/// Each header with what is declared from it, and what stands elsewhere: the servers' string is `host::server::Text`.
const HEADERS: [(&str, &str, &str); 3] =
    [("database", "(os_db|OS_DB)_.*", "os_str"), ("opensips", "(os|OS)_.*", "os_str|(os_db|OS_DB)_.*"), ("kamailio", "(km|KM)_.*", "km_str")];

fn main() {
    // A server has other modules whose symbols all can see, and that are named as the exports of every module.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (name, items, elsewhere) in HEADERS {
        let header = format!("include/{name}_abi.h");
        println!("cargo:rerun-if-changed={header}");
        let file = out.join(format!("{name}_abi.rs"));
        bindgen::Builder::default()
            .header(&header)
            .allowlist_item(items)
            .blocklist_item(elsewhere)
            .parse_callbacks(Box::new(Simple))
            .use_core()
            .derive_default(true)
            .layout_tests(true)
            .generate_comments(false)
            .generate()
            .unwrap_or_else(|e| panic!("{header}: libclang cannot read it ({e}); on Debian: apt-get install libclang-dev"))
            .write_to_file(&file)
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
}
