//! x
pub const FIRST_POLICY: &str = "";
pub const STRICT_POLICY: &str = "";
pub fn compile() {}
