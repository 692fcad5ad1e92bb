%% An accounting server of Erlang/OTP: notes Session-Id, number, T and type of every Accounting-Request, then answers it. One
%% request after the other, and slowly: who kills it, or its peer, finds requests that are noted and not answered.
-module(acct_srv).
-export([main/0, peer_up/3, peer_down/3, pick_peer/4, prepare_request/3, prepare_retransmit/3, handle_answer/4, handle_error/4, handle_request/3]).

main() ->
    [Port, File] = init:get_plain_arguments(),
    register(notes, spawn(fun() -> {ok, Notes} = file:open(File, [append, raw]), note(Notes) end)),
    {ok, _} = application:ensure_all_started(diameter),
    ok = diameter:start_service(acc, [{'Origin-Host', "srv.acc.test"}, {'Origin-Realm', "acc.test"}, {'Vendor-Id', 0}, {'Product-Name', "otp"},
        {'Acct-Application-Id', [3]}, {decode_format, map}, {string_decode, false},
        {application, [{alias, acct}, {dictionary, diameter_gen_acct_rfc6733}, {module, ?MODULE}, {answer_errors, callback}, {request_errors, callback}]}]),
    {ok, _} = diameter:add_transport(acc, {listen, [{watchdog_timer, 6000}, {transport_module, diameter_tcp},
        {transport_config, [{reuseaddr, true}, {ip, {127, 0, 0, 1}}, {port, list_to_integer(Port)}]}]}),
    receive stop -> ok end.

note(Notes) ->
    receive {From, Line} -> ok = file:write(Notes, Line), timer:sleep(5), From ! noted, note(Notes) end.

peer_up(_, _, S) -> S.
peer_down(_, _, S) -> S.
pick_peer(_, _, _, _) -> false.
prepare_request(_, _, _) -> discard.
prepare_retransmit(_, _, _) -> discard.
handle_answer(_, _, _, _) -> ok.
handle_error(_, _, _, _) -> ok.

handle_request(P, _, {_, Caps}) ->
    Header = element(2, P), ['ACR' | G] = element(4, P), Errors = element(6, P),
    #{'Session-Id' := Id, 'Accounting-Record-Type' := Type, 'Accounting-Record-Number' := Number} = G,
    {Host, _} = element(2, Caps), {Realm, _} = element(3, Caps),
    Code = case Errors of [] -> 2001; [{C, _} | _] -> C; [C | _] -> C end,
    notes ! {self(), io_lib:format("~s ~p ~p ~p ~p~n", [Id, Number, element(11, Header), Code, Type])},
    receive noted -> ok end,
    {reply, ['ACA' | #{'Session-Id' => Id, 'Result-Code' => Code, 'Origin-Host' => Host, 'Origin-Realm' => Realm,
        'Accounting-Record-Type' => Type, 'Accounting-Record-Number' => Number}]}.
