//! Lines of a file, synced.

use std::io::Write as _;

use super::super::sql::BATCH;
use super::{Body, Engine};

pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("cdr.jsonl")
    }
}

impl Engine for Files {
    type Client = ();

    fn name(&self) -> String {
        "file, synced".into()
    }

    fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    fn clear(&mut self) {
        let _ = std::fs::remove_file(self.path());
    }

    fn stored(&self) -> usize {
        std::fs::read(self.path()).unwrap().iter().filter(|b| **b == b'\n').count()
    }

    async fn client(&self) {}

    async fn publish(&self, (): &(), bodies: &[Body], at_once: usize) {
        let mut file = std::fs::File::options().create(true).append(true).open(self.path()).unwrap();
        let mut lines = Vec::new();
        for some in bodies.chunks(at_once) {
            lines.clear();
            for body in some {
                lines.extend_from_slice(&body.json);
                lines.push(b'\n');
            }
            file.write_all(&lines).unwrap();
            file.sync_data().unwrap();
        }
    }

    fn window(&self) -> usize {
        BATCH
    }
}
