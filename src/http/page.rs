//! Which page of a list is asked for, and which one comes next.

use url::Url;

use crate::recipe::{Answer, Pages};

/// What a request for a list says of the page that is meant.
pub(crate) enum Page {
    /// Nothing.
    First,
    /// A parameter of the query beside the request's own, and its value.
    Said(String, String),
    /// This instead of the request's own query.
    Query(String),
}

/// There is a next page, and where it is cannot be read.
pub(crate) struct NoAddress;

impl Page {
    pub(crate) fn first(pages: Option<&Pages>) -> Self {
        match pages {
            Some(Pages { parameter: Some(parameter), next: None, first, .. }) => {
                Self::Said(parameter.clone(), first.to_string())
            }
            _ => Self::First,
        }
    }

    /// The page after `number` pages, the last of which had so many items; `None` when that was the last one.
    pub(crate) fn after(
        pages: &Pages,
        answer: &Answer,
        items: usize,
        number: usize,
    ) -> Result<Option<Self>, NoAddress> {
        let told = || {
            let next = pages.next.as_ref()?.text_of(answer.body.as_ref()?);
            next.filter(|next| !next.is_empty())
        };
        let said = pages.more.as_ref().and_then(|more| more.of(answer.body.as_ref()?));
        if said == Some(&serde_json::Value::Bool(false)) {
            return Ok(None);
        }
        Ok(match (&pages.parameter, &pages.next) {
            (Some(parameter), None) => {
                let next = (pages.first as usize + number).to_string();
                (items > 0).then(|| Self::Said(parameter.clone(), next))
            }
            (Some(parameter), Some(_)) => told().map(|next| Self::Said(parameter.clone(), next)),
            // Its query alone: whatever an answer says, the admin credential goes where the recipe sends it.
            (None, _) => match told() {
                None => None,
                Some(address) => {
                    let address = address.split('#').next().unwrap_or_default();
                    let (_, query) = address.split_once('?').ok_or(NoAddress)?;
                    Some(Self::Query(query.to_owned()))
                }
            },
        })
    }

    /// Writes the query of a request, whose own is `own`.
    pub(crate) fn ask<'a>(&self, url: &mut Url, own: impl Iterator<Item = (&'a str, &'a str)>) {
        if let Self::Query(query) = self {
            url.set_query(Some(query));
            return;
        }
        let mut own = own.peekable();
        if own.peek().is_none() && matches!(self, Self::First) {
            return;
        }
        let mut query = url.query_pairs_mut();
        query.extend_pairs(own);
        if let Self::Said(name, value) = self {
            query.append_pair(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The addresses that a list is asked for at, page by page, where these answers come back.
    fn asked(pages: Value, answers: &[Value]) -> Result<Vec<String>, NoAddress> {
        let pages: Pages = serde_json::from_value(pages).expect("pages");
        let mut page = Page::first(Some(&pages));
        let mut asked = Vec::new();
        for number in 1.. {
            let mut url: Url = "https://api.example.com/v1/keys".parse().expect("an address");
            page.ask(&mut url, [("size", "2")].into_iter());
            asked.push(url.to_string().replace("https://api.example.com/v1/keys", ""));
            let body = answers[number - 1].clone();
            let items = body["keys"].as_array().map_or(0, Vec::len);
            let answer = Answer { status: 200, body: Some(body), page: false };
            match Page::after(&pages, &answer, items, number)? {
                Some(next) => page = next,
                None => return Ok(asked),
            }
        }
        Ok(asked)
    }

    #[test]
    fn pages_are_counted_until_one_is_empty() {
        let answers = [json!({"keys": [1, 2]}), json!({"keys": [3]}), json!({"keys": []})];
        let wanted = ["?size=2&n=0", "?size=2&n=1", "?size=2&n=2"];
        assert!(asked(json!({"parameter": "n", "first": 0}), &answers).is_ok_and(|asked| asked == wanted));
    }

    #[test]
    fn an_answer_says_what_the_next_request_says() {
        let answers = [json!({"keys": [1], "last": "a&b"}), json!({"keys": [], "last": null})];
        let wanted = ["?size=2", "?size=2&after=a%26b"];
        assert!(
            asked(json!({"parameter": "after", "next": "/last"}), &answers)
                .is_ok_and(|asked| asked == wanted)
        );
    }

    #[test]
    fn an_answer_that_is_the_last_one_is_believed() {
        let answers = [
            json!({"keys": [1], "last": "a", "more": true}),
            json!({"keys": [2], "last": "b", "more": false}),
        ];
        let wanted = ["?size=2", "?size=2&after=a"];
        let pages = json!({"parameter": "after", "next": "/last", "more": "/more"});
        assert!(asked(pages, &answers).is_ok_and(|asked| asked == wanted));
        // What says nothing of it, or something else, leaves it to the rest.
        let answers = [json!({"keys": [1], "last": "a", "more": null}), json!({"keys": [], "last": null})];
        let pages = json!({"parameter": "after", "next": "/last", "more": "/more"});
        assert!(asked(pages, &answers).is_ok_and(|asked| asked == wanted));
        let answers = [json!({"keys": [1], "more": true}), json!({"keys": [1], "more": false})];
        let pages = json!({"parameter": "n", "more": "/more"});
        assert!(asked(pages, &answers).is_ok_and(|asked| asked == ["?size=2&n=1", "?size=2&n=2"]));
    }

    #[test]
    fn the_address_of_the_next_page_gives_its_query_and_leads_nowhere_else() {
        let next = "https://evil.example.com/v2?size=2&page=2&token=t%2F1#end";
        let answers = [json!({"keys": [1], "next": next}), json!({"keys": [1], "next": ""})];
        let wanted = ["?size=2", "?size=2&page=2&token=t%2F1"];
        assert!(asked(json!({"next": "/next"}), &answers).is_ok_and(|asked| asked == wanted));
        for next in
            ["//evil.example.com/?page=2", "https:/evil.example.com?page=2", "\\\\evil.example.com?page=2"]
        {
            let answers = [json!({"keys": [1], "next": next}), json!({"keys": [1]})];
            assert!(
                asked(json!({"next": "/next"}), &answers).is_ok_and(|asked| asked == ["?size=2", "?page=2"])
            );
        }
        let elsewhere = [json!({"keys": [1], "next": "https://api.example.com/v1/keys/page/2"})];
        assert!(asked(json!({"next": "/next"}), &elsewhere).is_err());
    }
}
