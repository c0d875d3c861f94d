use super::*;

#[test]
fn places_survive_at_every_depth() {
    let yaml = "rules:\n  - name: a\n    to: [x, y]\n  - - 1\n";
    let document = Document::parse(Source::new("t.yaml", yaml), &Limits::CONFIG).unwrap();
    let path = |line, column| document.path(Position { line, column });
    assert_eq!(path(3, 13), "rules[0].to[1]");
    assert_eq!(path(2, 5), "rules[0]");
    assert_eq!(path(4, 7), "rules[1][0]");
    assert_eq!(path(1, 1), "");
}
