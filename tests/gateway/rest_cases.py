"""What google/api/http.proto says of paths and bodies, sentence by sentence, and what else is known of them, as rows.

Each row: rules, request, what is expected, where that is written.

- Rules: those of method ``One``, then, after a bar, of ``Two`` and ``Three``: ``get /v1/{name} body=*``. A plus begins
  an additional binding.
- The request: method and target as they are sent, and the JSON body if there is one.
- Expected: the request message that reaches ``One``, as its JSON; or (method, message); or the status of an error; or
  (status, what the error says). Rules that cannot be served make no route: 404.

Run by test_rest_table.py; the messages are those of rest_cases.proto. Queries have a table of their own.
"""

from __future__ import annotations

from typing import Any

Expected = dict[str, Any] | tuple[str, dict[str, Any]] | int | tuple[int, str]
Case = tuple[str, str, Expected, str]

ONEOF = "ProtoJSON: one field of a oneof is set (conformance: OneofFieldDuplicate)"

# The examples that http.proto itself gives, in their order.
EXAMPLES: list[Case] = [
    (
        "get /v1/{name=messages/*}",
        "GET /v1/messages/123456",
        {"name": "messages/123456"},
        "http.proto: the first example",
    ),
    (
        "get /v1/messages/{message_id}",
        "GET /v1/messages/123456?revision=2&sub.subfield=foo",
        {"messageId": "123456", "revision": "2", "sub": {"subfield": "foo"}},
        "http.proto: fields that the path does not bind become query parameters",
    ),
    (
        "get /v1/q",
        "GET /v1/q?strings=A&strings=B",
        {"strings": ["A", "B"]},
        "http.proto: the parameter can be repeated in the URL, ...?param=A&param=B",
    ),
    (
        "get /v1/q",
        "GET /v1/q?sub.subfield=A&sub.text=B&sub.count=3",
        {"sub": {"subfield": "A", "text": "B", "count": 3}},
        "http.proto: each field of the message is a parameter, ...?foo.a=A&foo.b=B&foo.c=C",
    ),
    (
        "patch /v1/messages/{message_id} body=message",
        'PATCH /v1/messages/123456 {"text": "Hi!"}',
        {"messageId": "123456", "message": {"text": "Hi!"}},
        'http.proto: body: "message"',
    ),
    (
        "patch /v1/messages/{message_id} body=*",
        'PATCH /v1/messages/123456 {"text": "Hi!"}',
        {"messageId": "123456", "text": "Hi!"},
        'http.proto: body: "*": every field that the path does not bind is in the body',
    ),
    (
        "patch /v1/messages/{message_id} body=*",
        'PATCH /v1/messages/123456?revision=2 {"text": "Hi!"}',
        (400, "revision"),
        "http.proto: with * it is not possible to have HTTP parameters",
    ),
    (
        "get /v1/messages/{message_id} + get /v1/users/{user_id}/messages/{message_id}",
        "GET /v1/messages/123456",
        {"messageId": "123456"},
        "http.proto: additional_bindings, 1",
    ),
    (
        "get /v1/messages/{message_id} + get /v1/users/{user_id}/messages/{message_id}",
        "GET /v1/users/me/messages/123456",
        {"userId": "me", "messageId": "123456"},
        "http.proto: additional_bindings, 2",
    ),
    (
        "get /v1/messages/{message_id}/{sub.subfield}",
        "GET /v1/messages/1/2",
        {"messageId": "1", "sub": {"subfield": "2"}},
        "http.proto: the selector's example: a nested field in the path",
    ),
]

# "Rules for HTTP mapping", and what they leave to no one.
ONEOFS: list[Case] = [
    ("put /v1/a body=*", 'PUT /v1/a {"left": "", "right": 1}', (400, "right: only one of 'left' and 'right'"), ONEOF),
    ("put /v1/a body=*", 'PUT /v1/a {"inner": {"text": "left"}, "left": "x"}', (400, "left: only one of"), ONEOF),
    ("put /v1/a body=*", 'PUT /v1/a {"l\\u0065ft": "x", "right": 1}', (400, "right: only one of"), ONEOF),
    ("put /v1/a body=*", 'PUT /v1/a {"left": null, "right": 1}', {"right": 1}, ONEOF + ": null is an absent field"),
    ("put /v1/a body=*", 'PUT /v1/a {"text": "\\"left\\"", "right": 1}', {"text": '"left"', "right": 1}, ONEOF),
    ("put /v1/a body=*", 'PUT /v1/a {"sub": {"one": 1, "other": 2}}', (400, "sub.other: only one of"), ONEOF),
    ("put /v1/a body=*", 'PUT /v1/a {"subs": [{"one": 1}, {"other": 2, "one": 3}]}', (400, "subs[1].one: only"), ONEOF),
    ("put /v1/a body=*", 'PUT /v1/a {"subMap": {"k": {"one": 1, "other": 2}}}', (400, 'subMap["k"].other'), ONEOF),
    (
        "put /v1/a body=*",
        'PUT /v1/a {"subs": [{"one": 1}, {"other": 2}], "left": "x"}',
        {"subs": [{"one": 1}, {"other": 2}], "left": "x"},
        ONEOF + ": each message has its own",
    ),
    ("put /v1/a body=sub", 'PUT /v1/a {"one": 1, "other": 2}', (400, "other: only one of"), ONEOF),
    ("put /v1/a body=*", 'PUT /v1/a {"void": null, "value2": 1}', (400, "only one of 'void' and 'value2'"), ONEOF),
]

MAPPING: list[Case] = [
    ("get /v1/{messageId}", "GET /v1/a", {"messageId": "a"}, "a template may name fields as in JSON (our choice)"),
    (
        "get /v1/{messageId}",
        "GET /v1/a?message_id=b",
        (400, "'message_id' is taken from the path or the body"),
        "facts: bind the path last or refuse the clash: however either is spelled",
    ),
    (
        "post /v1/{name}/{sub.subfield} body=message",
        'POST /v1/a/b?text=c&sub.text=d&strings=e {"text": "f"}',
        {"name": "a", "sub": {"subfield": "b", "text": "d"}, "text": "c", "strings": ["e"], "message": {"text": "f"}},
        "http.proto: rule 1: leaf fields of path, of body, all others",
    ),
    (
        "post /v1/{sub.subfield} body=sub",
        'POST /v1/path {"subfield": "body", "text": "t"}',
        {"sub": {"subfield": "path", "text": "t"}},
        "http.proto: rule 1: a leaf that the path refers to is passed via the path, also inside the body's field",
    ),
    (
        "put /v1/{name} body=*",
        'PUT /v1/path {"name": "body"}',
        {"name": "path"},
        "facts: a body must never override a path variable",
    ),
    (
        "put /v1/{sub.subfield} body=*",
        'PUT /v1/path {"sub": {"subfield": "body", "count": 1}}',
        {"sub": {"subfield": "path", "count": 1}},
        "facts: a body must never override a path variable: a nested one",
    ),
    (
        "put /v1/{sub.subfield} body=*",
        'PUT /v1/path {"sub": null}',
        {"sub": {"subfield": "path"}},
        "facts: a body must never override a path variable: by null",
    ),
    (
        "put /v1/{left} body=*",
        'PUT /v1/path {"right": 1}',
        {"left": "path"},
        "facts: a body must never override a path variable: by another field of its oneof",
    ),
    (
        "put /v1/{inner.subfield} body=*",
        'PUT /v1/path {"left": "x"}',
        {"inner": {"subfield": "path"}},
        "facts: a body must never override a path variable: the same, inside it",
    ),
    (
        "get /v1/{left}",
        "GET /v1/path?right=1",
        (400, "'left' is taken from the path"),
        "facts: bind the path last or refuse the clash: by a parameter of its oneof",
    ),
    (
        "get /v1/{name}",
        "GET /v1/path?name=query",
        (400, "'name' is taken from the path or the body"),
        "facts: bind the path last or refuse the clash",
    ),
    (
        "get /v1/{sub.subfield}",
        "GET /v1/path?sub.subfield=query",
        (400, "taken from the path or the body"),
        "facts: bind the path last or refuse the clash: a nested field",
    ),
    (
        "get /v1/{sub.subfield}",
        "GET /v1/path?sub.text=query",
        {"sub": {"subfield": "path", "text": "query"}},
        "http.proto: rule 1: its other fields are parameters",
    ),
    (
        "get /v1/{message_id}",
        "GET /v1/path?messageId=query",
        (400, "taken from the path or the body"),
        "facts: bind the path last or refuse the clash: by the name in JSON",
    ),
    (
        "post /v1/a body=sub",
        "POST /v1/a?sub.text=x {}",
        (400, "'sub' is taken from the path or the body"),
        "http.proto: rule 1: a field of the body is no parameter",
    ),
    ("get /v1/a", 'GET /v1/a {"name": "x"}', {}, "http.proto: rule 3: without body there is none"),
    ("delete /v1/{name}", "DELETE /v1/a {not json", {"name": "a"}, "facts: without `body` no body is read"),
    ("post /v1/a", "POST /v1/a?name=x", {"name": "x"}, "http.proto: rule 3: a POST without a body"),
    ("post /v1/a body=*", "POST /v1/a", {}, "ProtoJSON: nothing is an empty message (our choice)"),
    (
        "put /v1/{name}/strings body=strings",
        'PUT /v1/a/strings ["x", "y"]',
        {"name": "a", "strings": ["x", "y"]},
        "http.proto: the body can be a repeated field, as a JSON array",
    ),
    (
        "put /v1/{name}/subs body=subs",
        'PUT /v1/a/subs [{"text": "x"}, {}]',
        {"name": "a", "subs": [{"text": "x"}, {}]},
        "http.proto: the body can be a repeated field: of messages",
    ),
    (
        "put /v1/a body=map",
        'PUT /v1/a {"k": "v"}',
        {"map": {"k": "v"}},
        "http.proto: the name of the request field: a map",
    ),
    ("put /v1/a body=text", 'PUT /v1/a "x"', {"text": "x"}, "http.proto: the name of the request field: a string"),
    ("put /v1/a body=int64", 'PUT /v1/a "7"', {"int64": "7"}, "http.proto: the name of the request field: a number"),
    (
        "put /v1/a body=kind",
        'PUT /v1/a "FIRST"',
        {"kind": "FIRST"},
        "http.proto: the name of the request field: an enum",
    ),
    (
        "put /v1/a body=timestamp",
        'PUT /v1/a "2024-02-29T12:00:00Z"',
        {"timestamp": "2024-02-29T12:00:00Z"},
        "http.proto: the name of the request field: a Timestamp",
    ),
    ("put /v1/a body=value", "PUT /v1/a null", {"value": None}, "ProtoJSON: Value: null is a value"),
    ("put /v1/a body=sub", "PUT /v1/a null", {}, "ProtoJSON: null is an absent field"),
    ("put /v1/a body=strings", "PUT /v1/a null", {}, "ProtoJSON: null is an absent field: a repeated one"),
    ("put /v1/a body=*", "PUT /v1/a null", 400, "ProtoJSON: a message is an object"),
    ("put /v1/a body=*", "PUT /v1/a []", 400, "ProtoJSON: a message is an object"),
    ("put /v1/a body=sub", 'PUT /v1/a "x"', 400, "ProtoJSON: a message is an object: that of a field"),
    ("put /v1/a body=*", 'PUT /v1/a {"nope": 1}', (400, "nope"), "an unknown field is refused, with its name"),
    ("put /v1/a body=*", 'PUT /v1/a {"name": "x"', (400, "not valid JSON"), "RFC 8259"),
    (
        "put /v1/a body=*",
        'PUT /v1/a {"message_id": "x", "userId": "y", "another": "z"}',
        {"messageId": "x", "userId": "y", "another": "z"},
        "ProtoJSON: parsers accept both the lowerCamelCase name and the original one, and json_name",
    ),
]

# HTTP methods.
METHODS: list[Case] = [
    ("get /v1/a", "GET /v1/a?name=x", {"name": "x"}, "http.proto: Maps to HTTP GET"),
    ("put /v1/a", "PUT /v1/a?name=x", {"name": "x"}, "http.proto: Maps to HTTP PUT"),
    ("post /v1/a", "POST /v1/a?name=x", {"name": "x"}, "http.proto: Maps to HTTP POST"),
    ("delete /v1/a", "DELETE /v1/a?name=x", {"name": "x"}, "http.proto: Maps to HTTP DELETE"),
    ("patch /v1/a", "PATCH /v1/a?name=x", {"name": "x"}, "http.proto: Maps to HTTP PATCH"),
    (
        "REPORT /v1/{name}",
        "REPORT /v1/a",
        {"name": "a"},
        "http.proto: custom: an HTTP method that is not included in the pattern",
    ),
    ("HEAD /v1/{name}", "HEAD /v1/a", {"name": "a"}, "http.proto: custom: such as HEAD"),
    ("* /v1/{name}", "DELETE /v1/a", {"name": "a"}, 'http.proto: "*" to leave the HTTP method unspecified'),
    ("* /v1/{name}", "GET /v1/a", {"name": "a"}, 'http.proto: "*" to leave the HTTP method unspecified'),
    (
        "* /v1/{name} | get /v1/{name}",
        "GET /v1/a",
        ("Two", {"name": "a"}),
        "a method that is named beats one that is not (our choice)",
    ),
    ("get /v1/{name}", "HEAD /v1/a", {"name": "a"}, "RFC 9110, 9.3.2: HEAD is GET without the content"),
    ("get /v1/{name}", "POST /v1/a", 405, "RFC 9110, 15.5.6"),
    ("get /v1/{name}", "get /v1/a", 405, "RFC 9110, 9.1: methods are case-sensitive"),
    (
        "get /v1/a + post /v1/a body=*",
        'POST /v1/a {"name": "x"}',
        {"name": "x"},
        "http.proto: additional_bindings of another method",
    ),
]

# Path templates: which paths match, and what their variables are worth; rules that cannot be.
TEMPLATES: list[Case] = [
    ("get /v1/a/*", "GET /v1/a/x", {}, "http.proto: * matches a single URL path segment"),
    ("get /v1/a/*", "GET /v1/a/x/y", 404, "http.proto: * matches a single URL path segment: not two"),
    ("get /v1/a/*", "GET /v1/a", 404, "http.proto: * matches a single URL path segment: not none"),
    ("get /v1/a/*", "GET /v1/a/", 404, "a name is not empty (grpc-gateway, too; Envoy drops the slash)"),
    ("get /v1/*/a", "GET /v1//a", 404, "a name is not empty: in between"),
    ("get /v1/a/**", "GET /v1/a", {}, "facts: `**` matches zero segments"),
    ("get /v1/a/**", "GET /v1/a/x", {}, "http.proto: ** matches zero or more URL path segments: one"),
    ("get /v1/a/**", "GET /v1/a/x/y/z", {}, "http.proto: ** matches zero or more URL path segments: three"),
    ("get /v1/a/**", "GET /v1/ab", 404, "http.proto: LITERAL matches literal text"),
    ("get /**", "GET /", {}, "http.proto: ** matches zero or more URL path segments: the root"),
    ("get /v1/**/a", "GET /v1/x/a", 404, "http.proto: ** must be the last part: the rule is not served"),
    ("get /v1/{name=**}/a", "GET /v1/x/a", 404, "http.proto: ** must be the last part: in a variable"),
    ("get /v1/**:go", "GET /v1/x/y:go", {}, "http.proto: ** must be the last part except the Verb"),
    ("get /v1/{name={text}}", "GET /v1/x", 404, "http.proto: must not contain other variables"),
    ("get /v1/{name}", "GET /v1/x", {"name": "x"}, "http.proto: {var} is equivalent to {var=*}"),
    ("get /v1/{name=*}", "GET /v1/x", {"name": "x"}, "http.proto: {var} is equivalent to {var=*}"),
    ("get /v1/{name=**}", "GET /v1", {}, "facts: `**` matches zero segments: the variable is empty"),
    ("get /v1/{name=**}", "GET /v1/a/b", {"name": "a/b"}, 'http.proto: variables must not capture the leading "/"'),
    ("get /v1/{name=**}", "GET /v1/a/", {"name": "a/"}, "a path is what was sent (Envoy drops the slash)"),
    (
        "get /v1/{name=shelves/*/books/*}",
        "GET /v1/shelves/1/books/2",
        {"name": "shelves/1/books/2"},
        "http.proto: a variable of several segments",
    ),
    (
        "get /v1/{name=shelves/*/books/*}",
        "GET /v1/shelves/1/books/2/3",
        404,
        "http.proto: a variable matches part of the path by its template",
    ),
    (
        "get /v1/{name=shelves/*/books/*}",
        "GET /v1/shelves/1/tables/2",
        404,
        "http.proto: a variable matches part of the path by its template",
    ),
    (
        "get /v1/{name=a/*}/{text=b/**}",
        "GET /v1/a/1/b/2/3",
        {"name": "a/1", "text": "b/2/3"},
        "http.proto: two variables",
    ),
    (
        "get /v1/{sub.deeper.deeper.text}",
        "GET /v1/x",
        {"sub": {"deeper": {"deeper": {"text": "x"}}}},
        "http.proto: FieldPath",
    ),
    (
        "get /v1/a%20b/{name}",
        "GET /v1/a%20b/x",
        {"name": "x"},
        "http.proto: reserved characters are percent-encoded before the matching",
    ),
    ("get /v1/a%20b/{name}", "GET /v1/a+b/x", 404, "facts: templates match the RAW path"),
    ("get /v1/a/b", "GET /v1/a%2Fb", 404, "facts: templates match the RAW path: %2F separates nothing"),
    ("get /v1/a", "GET /v1/a/", 404, "facts: templates match the RAW path: a slash more is another path"),
    ("get /v1/a", "GET //v1/a", 404, "facts: templates match the RAW path: a slash more is another path"),
    ("get /v1/a", "GET /v1/x/../a", 404, "facts: templates match the RAW path: no dots are resolved"),
    ("get /v1/A", "GET /v1/a", 404, "RFC 3986, 6.2.2.1: paths are case-sensitive"),
    ("get /v1/{name}", "GET /v1/a%2Fb", {"name": "a/b"}, "facts: a single-segment variable decodes everything"),
    (
        "get /v1/{name}",
        "GET /v1/%E2%82%AC%20%25",
        {"name": "€ %"},
        "http.proto: the server side does the reverse decoding",
    ),
    (
        "get /v1/{name}",
        "GET /v1/%7E%2D%2E",
        {"name": "~-."},
        "http.proto: the server side does the reverse decoding: unreserved ones, too",
    ),
    ("get /v1/{name}", "GET /v1/%252F", {"name": "%2F"}, "http.proto: the server side does the reverse decoding: once"),
    ("get /v1/{name}", "GET /v1/a+b", {"name": "a+b"}, "RFC 3986: '+' is itself in a path"),
    (
        "get /v1/{name}",
        "GET /v1/%00",
        {"name": "\x00"},
        "http.proto: the server side does the reverse decoding: NUL is a character",
    ),
    ("get /v1/{name}", "GET /v1/..%2F..", {"name": "../.."}, "a value is no path: the back-end decides what it means"),
    ("get /v1/{name}", "GET /v1/a;b=c,d", {"name": "a;b=c,d"}, "RFC 3986, 3.3: parameters of a segment are part of it"),
    (
        "get /v1/{name=a/*}",
        "GET /v1/a/x%2Fy",
        {"name": "a/x%2Fy"},
        'http.proto: except "%2F" and "%2f" are left unchanged',
    ),
    (
        "get /v1/{name=**}",
        "GET /v1/x%2fy/%20",
        {"name": "x%2fy/ "},
        'http.proto: except "%2F" and "%2f" are left unchanged',
    ),
    (
        "get /v1/{name=**}",
        "GET /v1/%252F",
        {"name": "%2F"},
        "decoded once: not to be told from an escaped slash (Envoy, too)",
    ),
    (
        "get /v1/{name=**}",
        "GET /v1/x%2Fy",
        {"name": "x%2Fy"},
        "http.proto: {var=**} contains multiple segments, also of a path with one",
    ),
    ("get /v1/{name}", "GET /v1/%zz", (400, "'name'"), "RFC 3986, 2.1: two hexadecimal digits"),
    ("get /v1/{name}", "GET /v1/%FF", (400, "UTF-8"), "protobuf: a string is UTF-8"),
    ("get /v1/{name}", "GET /v1/%ED%A0%80", (400, "UTF-8"), "RFC 3629: no surrogates"),
    ("get /v1/{name=**}", "GET /v1/a/%2", (400, "'name'"), "RFC 3986, 2.1: two hexadecimal digits"),
    ("post /v1/{name}:go body=*", "POST /v1/x:go", {"name": "x"}, 'http.proto: Verb = ":" LITERAL'),
    ("post /v1/{name}:go", "POST /v1/x", 404, 'http.proto: Verb = ":" LITERAL'),
    ("post /v1/{name}:go", "POST /v1/x:stop", 404, 'http.proto: Verb = ":" LITERAL'),
    (
        "post /v1/{name}:go",
        "POST /v1/x%3Ago",
        404,
        "facts: templates match the RAW path: an escaped colon begins no verb",
    ),
    ("get /v1/messages:search", "GET /v1/messages:search", {}, "AIP-136: a verb after a literal"),
    ("get /v1/{name}", "GET /v1/x:y", {"name": "x:y"}, "facts: `:verb` splits only if that verb is registered"),
    ("get /v1/{name}", "GET /v1/x:", {"name": "x:"}, "facts: `:verb` splits only if that verb is registered"),
    (
        "get /v1/{name} | get /v1/{name}:go",
        "GET /v1/x:go",
        ("Two", {"name": "x"}),
        "facts: `:verb` splits if it is registered",
    ),
    (
        "get /v1/{name} | get /v1/{name}:go",
        "GET /v1/x:y:go",
        ("Two", {"name": "x:y"}),
        "facts: `:verb` splits if it is registered: the last colon",
    ),
    (
        "get /v1/{name} | get /v1/{name}:go",
        "GET /v1/x:stop",
        {"name": "x:stop"},
        "facts: `:verb` splits only if that verb is registered",
    ),
    (
        "get /v1/{name} | post /v1/{name}:go",
        "GET /v1/x:go",
        {"name": "x:go"},
        "facts: `:verb` splits only if that verb is registered: for the method",
    ),
    (
        "get /v1/{name} | get /v2/{name}:go",
        "GET /v1/x:go",
        {"name": "x:go"},
        "a verb of other paths takes nothing from this one",
    ),
    (
        "get /v1/{name=a/**}:go",
        "GET /v1/a/b/c:go",
        {"name": "a/b/c"},
        "http.proto: a verb after a variable of several segments",
    ),
    ("get /v1/a/** | get /v1/a/* | get /v1/a/b", "GET /v1/a/b", ("Three", {}), "facts: literal beats `*`"),
    ("get /v1/a/** | get /v1/a/* | get /v1/a/b", "GET /v1/a/x", ("Two", {}), "facts: `*` beats `**`"),
    ("get /v1/a/** | get /v1/a/* | get /v1/a/b", "GET /v1/a/x/y", {}, "facts: `**` takes the rest"),
    (
        "get /v1/{name}/b/c | get /v1/a/{text}/d",
        "GET /v1/a/b/c",
        {"name": "a"},
        "a path that a literal leads astray is found all the same",
    ),
    (
        "get /v1/{name} | get /v1/{text=*}",
        "GET /v1/x",
        {"name": "x"},
        "of two rules for the same paths, the earlier one is served",
    ),
    (
        "get /v1/{name=a/*} | get /v1/a/{text}",
        "GET /v1/a/x",
        {"name": "a/x"},
        "of two rules for the same paths, the earlier one is served",
    ),
    ("get /v1/{strings}", "GET /v1/x", 404, "http.proto: variables must not refer to any repeated field"),
    ("get /v1/{map}", "GET /v1/x", 404, "http.proto: variables must not refer to any mapped field"),
    ("get /v1/{map.key}", "GET /v1/x", 404, "http.proto: variables must not refer to any mapped field"),
    ("get /v1/{sub}", "GET /v1/x", 404, "http.proto: a non-repeated field with a primitive (non-message) type"),
    (
        "get /v1/{subs.text}",
        "GET /v1/x",
        404,
        "http.proto: variables must not refer to any repeated field: nor into one",
    ),
    ("get /v1/{nope}", "GET /v1/x", 404, "http.proto: the template may refer to fields in the request message"),
    ("get /v1/{name.x}", "GET /v1/x", 404, "http.proto: FieldPath: a string has no fields"),
    ("get /v1/{name}/{name}", "GET /v1/x/y", 404, "a variable can be bound once (grpc-gateway, too)"),
    ("post /v1/a body=nope", "POST /v1/a {}", 404, "http.proto: the referred field must be present at the top level"),
    (
        "post /v1/a body=sub.text",
        "POST /v1/a {}",
        404,
        "http.proto: the referred field must be present at the top level",
    ),
    ("get /v1/a response_body=nope", "GET /v1/a", 404, "http.proto: response_body: must be present at the top level"),
    ("get /v1/a + get /v1/b + get /v1/c", "GET /v1/c", 404, "http.proto: the nesting may only be one level deep"),
    ("get /v1/{nope} + get /v1/b", "GET /v1/b", {}, "one rule that cannot be served leaves the others alone"),
]
