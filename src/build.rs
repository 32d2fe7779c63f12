//! Puts the page into the binary: compressed now, so that serving it costs nothing later.

fn main() {
    memory_serve::load_directory("./assets");
}
