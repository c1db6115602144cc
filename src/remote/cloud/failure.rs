//! What an error of `object_store` means, in words that have no secret in them.

use super::super::objects::Trouble;
use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};
use std::error::Error as StdError;

/// The kind of a failed request, by its error and the status of its last answer.
pub(super) fn sort(e: &Error, status: Option<u16>) -> (Trouble, String) {
    let code = code_of(&e.to_string());
    let answered = |status: u16| match &code {
        Some(code) => format!("the object store answers {status} ({code})"),
        None => format!("the object store answers {status}"),
    };
    let expired =
        |code: &String| matches!(code.as_str(), "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired");
    let trouble = match (e, status) {
        (Error::NotFound { .. }, _) => Trouble::Missing,
        (Error::AlreadyExists { .. } | Error::Precondition { .. }, _) => Trouble::Exists,
        (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _) => Trouble::Refused,
        (_, Some(400)) if code.as_ref().is_some_and(expired) => Trouble::Refused,
        (_, Some(401 | 403)) => Trouble::Refused,
        (_, Some(507)) => Trouble::Full,
        (_, Some(408 | 409 | 425 | 429 | 500..)) => Trouble::Unreachable,
        // An answer that was cut off.
        (_, Some(200..300)) if http_kind(e).is_some() => Trouble::Unreachable,
        (_, None) if http_kind(e).is_some() => Trouble::Unreachable,
        _ => Trouble::Other,
    };
    let why = match (trouble, status, code.as_deref()) {
        (Trouble::Missing, _, Some("NoSuchBucket")) => "there is no such bucket".to_owned(),
        (Trouble::Missing, ..) => "there is no such object".to_owned(),
        (Trouble::Exists, ..) => "there is one already".to_owned(),
        (Trouble::Refused, _, Some("RequestTimeTooSkewed")) => {
            "the object store refuses it because the clock of this host is wrong".to_owned()
        }
        (Trouble::Refused, status, _) => {
            format!("{}; are the credentials right, and allowed to do this?", answered(status.unwrap_or(403)))
        }
        (_, Some(status @ 300..400), _) => format!("{}; is the region right?", answered(status)),
        (_, Some(status), _) if !(200..300).contains(&status) => answered(status),
        _ => deepest(e),
    };
    (trouble, why)
}

fn chain<'a>(e: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(e), |&e| e.source())
}

fn http_kind(e: &Error) -> Option<HttpErrorKind> {
    chain(e).find_map(|e| e.downcast_ref::<HttpError>()).map(HttpError::kind)
}

/// What is at the bottom of an error: that has no URL in it, whose query may have a signature.
fn deepest(e: &Error) -> String {
    let text = chain(e).last().map(ToString::to_string).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let shown: String = line
        .split(' ')
        .filter(|word| !word.contains("://") && !word.contains('?'))
        .collect::<Vec<_>>()
        .join(" ");
    shown.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The code in an answer of XML.
fn code_of(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let plain = !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_an_answer_is_shown() {
        let body = "status 403: <Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>";
        let e = Error::PermissionDenied { path: "x".into(), source: body.into() };
        let (trouble, why) = sort(&e, Some(403));
        assert_eq!(trouble, Trouble::Refused);
        assert!(why.contains("SignatureDoesNotMatch") && !why.contains("AKIA"), "{why}");
        let e = Error::Generic { store: "S3", source: "see https://x/y?X-Amz-Signature=abc for more".into() };
        assert_eq!(sort(&e, None), (Trouble::Other, "see for more".to_owned()));
        for (status, expected) in [
            (500, Trouble::Unreachable),
            (503, Trouble::Unreachable),
            (429, Trouble::Unreachable),
            (400, Trouble::Other),
            (507, Trouble::Full),
        ] {
            let e = Error::Generic { store: "S3", source: "no".into() };
            assert_eq!(sort(&e, Some(status)).0, expected, "{status}");
        }
        assert_eq!(code_of("<Code>a b</Code>"), None);
    }
}
