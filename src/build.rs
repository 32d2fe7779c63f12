//! Embeds the page into the binary, compressed at build time so that serving it needs no CPU.

fn main() {
    memory_serve::load_directory("./assets");
}
