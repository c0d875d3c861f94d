//! The documents are part of the product: what they show runs, what they name exists.

mod markdown;
mod origin;
mod session;

#[test]
fn the_readme_runs() {
    session::run("README.md", 6);
}
