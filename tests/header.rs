//! include/acc.h is made from the source and committed: here it is made again and compared.

use std::path::Path;

fn generate() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::Builder::new().with_config(config).with_src(root.join("src/host/capi.rs")).generate().expect("the source of acc.h");
    let mut out = Vec::new();
    bindings.write(&mut out);
    String::from_utf8(out).expect("cbindgen writes UTF-8")
}

fn file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include/acc.h")
}

#[test]
fn the_committed_header_is_in_step() {
    assert_eq!(std::fs::read_to_string(file()).unwrap(), generate(), "run: cargo test --test header -- --ignored");
}

#[test]
#[ignore = "writes include/acc.h"]
fn write_the_header() {
    std::fs::write(file(), generate()).unwrap();
}
