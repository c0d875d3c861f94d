//! What a plain scalar can be, and which characters may be in none.

/// Characters that may stand in no file and no value, but for tab and line end.
pub(super) fn hidden(c: char) -> bool {
    match c {
        '\t' | '\n' => false,
        _ if c.is_control() => true,
        // Line ends in some programs only, then what turns the direction of writing.
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}'),
    }
}

/// What a plain scalar that is no word of YAML looks like.
pub(super) enum Form {
    /// Not a number.
    Text,
    /// `-12`
    Whole,
    /// `1.5`, `2e3`
    Decimal,
}

/// Numbers are those of JSON (RFC 8259 section 6). What is one to YAML 1.1 alone (`012`, `1_000`,
/// `12:30`) is text.
pub(super) fn form_of(text: &str) -> Form {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(unsigned);
    if whole == 0 || (whole > 1 && unsigned.starts_with('0')) {
        return Form::Text;
    }
    let mut rest = &unsigned[whole..];
    if rest.is_empty() {
        return Form::Whole;
    }
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = digits(fraction);
        if count == 0 {
            return Form::Text;
        }
        rest = &fraction[count..];
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let count = digits(exponent);
        rest = if count == 0 { rest } else { &exponent[count..] };
    }
    if rest.is_empty() { Form::Decimal } else { Form::Text }
}
