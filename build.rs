//! Turns `include/opensips_abi.h` and `include/kamailio_abi.h` into Rust declarations, which the
//! host families include (`src/host/*/abi.rs`).

use std::env;
use std::path::PathBuf;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (family, items) in [("opensips", "(os|OS)_.*"), ("kamailio", "(km|KM)_.*")] {
        let header = format!("include/{family}_abi.h");
        println!("cargo:rerun-if-changed={header}");
        let file = out.join(format!("{family}_abi.rs"));
        bindgen::Builder::default()
            .header(&header)
            .allowlist_item(items)
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
