//! `rustane serve`: texts over HTTP are those of `generate` and `chat`; who waits, who leaves, who may not.

mod bad_input;
mod client;
mod doors;
mod line;

use metal_decode::{Api, Gpu};
use serde_json::{Value, json};

use self::client::Server;
use crate::chat;
use crate::lab::Lab;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const CPU: [&str; 3] = ["run", "--device", "cpu"];

/// A conversation, at temperature 0.
fn talk(said: &[&str]) -> Value {
    let role = |i: usize| if i.is_multiple_of(2) { "user" } else { "assistant" };
    let messages: Vec<_> =
        said.iter().enumerate().map(|(i, text)| json!({ "role": role(i), "content": text })).collect();
    json!({ "model": "run", "messages": messages, "temperature": 0, "max_tokens": 16 })
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The text of the first choice.
fn said(answer: &Value) -> &str {
    let choice = &answer["choices"][0];
    choice["message"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn conversations_are_those_of_chat() {
    let lab = chat::lab();
    let server = Server::start(&lab, &CPU);
    let by_chat = chat::chat(&lab, "Hi\nBye\n", &[]).out;
    let first = server.post(CHAT, &talk(&["Hi"])).fine();
    let hello = said(&first).to_owned();
    let second = server.post(CHAT, &talk(&["Hi", &hello, "Bye"])).fine();
    assert_eq!(format!("{hello}\n{}\n", said(&second)), by_chat);
    assert_eq!((&first["object"], &first["model"]), (&json!("chat.completion"), &json!("run")));
    let choice = &first["choices"][0];
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("stop")));
    assert_eq!(choice["message"]["role"], "assistant");
    // The second turn reads what the first had not.
    let counts = |answer: &Value| {
        let count = |at: &str| answer.pointer(at).and_then(Value::as_u64).unwrap();
        let usage =
            ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details/cached_tokens"];
        usage.map(|name| count(&format!("/usage/{name}")))
    };
    let ([prompt, written, total, kept], [longer, _, _, reused]) = (counts(&first), counts(&second));
    assert_eq!((total, kept), (prompt + written, 0));
    // All of the first prompt, and of the answer all but its end, which was drawn and not read.
    assert_eq!(reused, prompt + written - 1, "{second}");
    assert!(longer > reused);
    server.wait_for(&format!("prompt {longer} tokens ({reused} kept) at "));
    assert!(server.said().starts_with("run/step-00000400, on cpu, "), "{}", server.said());

    // Other ways to say the same.
    let parts = json!([{ "type": "text", "text": "H" }, { "type": "text", "text": "i" }]);
    let same = json!({ "messages": [{ "role": "user", "content": parts, "name": null, "tool_calls": [] }],
                       "model": null, "max_tokens": null, "n": null, "stop": null, "user": "me",
                       "metadata": { "a": "b" }, "logit_bias": {}, "presence_penalty": 0.0,
                       "response_format": { "type": "text" }, "max_completion_tokens": 16 });
    assert_eq!(said(&server.post(CHAT, &with(talk(&[]), same)).fine()), hello);
    let told = |role: &str| {
        let messages = json!([{ "role": role, "content": "Be brief." }, { "role": "user", "content": "Hi" }]);
        let answer = server.post(CHAT, &with(talk(&[]), json!({ "messages": messages }))).fine();
        (said(&answer).to_owned(), answer["usage"]["prompt_tokens"].clone())
    };
    assert_eq!(told("system"), told("developer"));
    assert_ne!(told("system").1, first["usage"]["prompt_tokens"]);
}

#[test]
fn pieces_make_up_the_answer() {
    let lab = chat::lab();
    let server = Server::start(&lab, &CPU);
    let counted = json!({ "stream": true, "stream_options": { "include_usage": true } });
    for (path, body) in
        [(CHAT, talk(&["Hi"])), (TEXT, json!({ "prompt": "The", "temperature": 0, "ignore_eos": true }))]
    {
        let whole = server.post(path, &body).fine();
        let mut events = server.post(path, &with(body.clone(), counted.clone())).events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        let pieces: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let [first, .., end, usage] = &pieces[..] else { panic!("{events:?}") };
        // The same in all of them.
        for piece in &pieces {
            for name in ["id", "object", "created", "model"] {
                assert_eq!(piece[name], first[name]);
            }
        }
        let object = if path == CHAT { "chat.completion.chunk" } else { "text_completion" };
        assert_eq!((&first["object"], &first["model"]), (&json!(object), &json!("run")));
        let text = |piece: &Value| {
            let choice = &piece["choices"][0];
            choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default().to_owned()
        };
        if path == CHAT {
            assert_eq!(first["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
            assert_eq!(end["choices"][0]["delta"], json!({}));
        }
        assert_eq!(pieces.iter().map(text).collect::<String>(), said(&whole));
        assert!(pieces.len() > 4, "{events:?}");
        let reason = |piece: &Value| piece["choices"][0]["finish_reason"].clone();
        assert_eq!(reason(end), reason(&whole));
        assert!(pieces[..pieces.len() - 2].iter().all(|p| reason(p).is_null() && p["usage"].is_null()));
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"]["total_tokens"], whole["usage"]["total_tokens"]);
        // Nobody counts unless asked.
        let plain = server.post(path, &with(body, json!({ "stream": true }))).events();
        assert_eq!(plain.len(), pieces.len());
        assert!(plain[..plain.len() - 1].iter().all(|event| event.contains("\"usage\":null")));
    }
}

#[test]
fn completions_are_those_of_generate() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "80"]);
    let server = Server::start(&lab, &CPU);
    let generated = |args: &[&str]| {
        let ran = lab.run(&[&["generate"], &CPU[..], &["-n", "30"], args].concat());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        ran.out.strip_suffix('\n').unwrap().to_owned()
    };
    let complete = |body: Value| server.post(TEXT, &with(json!({ "max_tokens": 30 }), body)).fine();
    let greedy = complete(json!({ "prompt": "The", "temperature": 0 }));
    let whole = generated(&["-p", "The", "-t", "0"]);
    assert_eq!(format!("The{}", said(&greedy)), whole);
    assert_eq!(greedy["object"], "text_completion");
    for (flags, body) in [
        (&["--seed", "7"][..], json!({ "seed": 7 })),
        (&["-t", "1.5", "--seed", "3", "--top-k", "9"], json!({ "temperature": 1.5, "seed": 3, "top_k": 9 })),
        (&["--top-p", "0.5", "--min-p", "0.1"], json!({ "top_p": 0.5, "min_p": 0.1, "seed": 0 })),
        (&["--repetition-penalty", "3"], json!({ "repetition_penalty": 3, "seed": 0 })),
        (&["--ignore-eos"], json!({ "ignore_eos": true, "seed": 0, "top_k": -1 })),
        (&["--stop", "e", "--stop", "a"], json!({ "stop": ["e", "a"], "seed": 0 })),
    ] {
        let answer = complete(with(body, json!({ "prompt": "One day" })));
        assert_eq!(
            format!("One day{}", said(&answer)),
            generated(&[&["-p", "One day"], flags].concat()),
            "{flags:?}"
        );
    }
    // Without a seed it is another text each time.
    let free =
        || said(&complete(json!({ "prompt": "One", "temperature": 5, "ignore_eos": true }))).to_owned();
    assert_ne!(free(), free());
    // Several texts: prompts one after the other, each `n` times with the next seeds.
    let two = complete(json!({ "prompt": ["The", "One day"], "n": 2, "seed": 7, "temperature": 1 }));
    let texts: Vec<_> = two["choices"].as_array().unwrap().iter().map(|c| c["text"].clone()).collect();
    let alone = |prompt: &str, seed: u64| {
        complete(json!({ "prompt": prompt, "seed": seed, "temperature": 1 }))["choices"][0]["text"].clone()
    };
    assert_eq!(texts, [alone("The", 7), alone("The", 8), alone("One day", 7), alone("One day", 8)]);
    let indices: Vec<_> = two["choices"].as_array().unwrap().iter().map(|c| c["index"].clone()).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    // Tokens instead of text.
    let ids = lab.run(&["tokenizer", "encode", "run", "The"]).out;
    let ids: Vec<u32> = ids.split(|c: char| !c.is_ascii_digit()).filter_map(|id| id.parse().ok()).collect();
    let eos = model::Tokenizer::load(&lab.newest("run").1.join("tokenizer.json")).unwrap().bos().unwrap().0;
    let ids: Vec<u32> = std::iter::once(eos).chain(ids).collect();
    assert_eq!(said(&complete(json!({ "prompt": ids, "temperature": 0 }))), said(&greedy));
    assert_eq!(said(&complete(json!({ "prompt": [ids], "temperature": 0 }))), said(&greedy));
    // Lengths: what is asked for, what OpenAI's is without, and what the positions allow.
    let length = |body: Value| {
        let answer = server.post(TEXT, &with(json!({ "prompt": "The", "ignore_eos": true }), body)).fine();
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        answer["usage"]["completion_tokens"].as_u64().unwrap()
    };
    assert_eq!((length(json!({ "max_tokens": 7 })), length(json!({}))), (7, 16));
    let prompt = greedy["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(length(json!({ "max_tokens": 1_000_000 })), 64 - prompt + 1);
    // What there is.
    let models = server.get("/v1/models").fine();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("run")));
    assert_eq!(server.get("/v1/models/run").fine(), models["data"][0]);
    let health = json!({ "status": "ok", "reason": null, "writing": false, "waiting": 0 });
    assert_eq!(server.get("/health").fine(), health);
}

#[test]
fn clients_at_once_have_their_own_texts() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "60"]);
    let server = Server::start(&lab, &CPU);
    let ask = |prompt: &str, stream: bool| {
        let body = json!({ "prompt": prompt, "temperature": 0, "ignore_eos": true, "stream": stream });
        let answer = server.post(TEXT, &body);
        if !stream {
            return said(&answer.fine()).to_owned();
        }
        let pieces = answer.events();
        let text = |event: &String| serde_json::from_str::<Value>(event).ok();
        pieces.iter().filter_map(text).map(|piece| said(&piece).to_owned()).collect()
    };
    let prompts = ["The", "One day", "Once", "A cat"];
    let alone = prompts.map(|prompt| ask(prompt, false));
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (ask, alone, i) = (&ask, &alone, client % 4);
            scope.spawn(move || {
                for _ in 0..4 {
                    assert_eq!(ask(prompts[i], client < 4), alone[i]);
                }
            });
        }
    });
}

#[test]
fn a_gpu_serves_the_same_text() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "60"]);
    let body = json!({ "prompt": "The cat", "temperature": 0, "max_tokens": 20 });
    let of = |args: &[&str]| {
        let server = Server::start(&lab, &[&["run"], args].concat());
        let answer = server.post(TEXT, &body).fine();
        (said(&answer).to_owned(), server.said())
    };
    let (text, _) = of(&["--device", "cpu"]);
    let (handed, label) = of(&["--device", "cpu", "--prompts", "virtual-ane"]);
    assert!(handed == text && label.contains("f32; prompts on virtual ANE (M4 Max), "), "{label}");
    let (quantised, label) = of(&["--device", "cpu", "--format", "q8_0", "--quiet"]);
    assert!(
        !quantised.is_empty() && label.contains("q8_0; 64 positions") && !label.contains("seed"),
        "{label}"
    );
    let Ok(gpu) = Gpu::open(Api::Vulkan) else { return };
    let (on_gpu, label) = of(&["--device", "vulkan"]);
    assert!(on_gpu == text && label.contains(&format!("on {}, f16; ", gpu.label())), "{label}");
}
