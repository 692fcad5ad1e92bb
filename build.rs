//! Turns `include/opensips_abi.h` into Rust declarations (`src/host/opensips/abi.rs` includes them).

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=include/opensips_abi.h");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("opensips_abi.rs");
    bindgen::Builder::default()
        .header("include/opensips_abi.h")
        .allowlist_item("(os|OS)_.*")
        .use_core()
        .derive_default(true)
        .layout_tests(true)
        .generate_comments(false)
        .generate()
        .expect("include/opensips_abi.h: libclang cannot read it; on Debian: apt-get install libclang-dev")
        .write_to_file(&out)
        .unwrap_or_else(|e| panic!("{}: {e}", out.display()));
}
