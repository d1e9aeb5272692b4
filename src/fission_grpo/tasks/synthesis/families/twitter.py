"""Requests to `TwitterAPI`: posting, following and retweeting want a login, reading does not."""

from __future__ import annotations

from random import Random
from typing import Any

from fission_grpo.tasks.synthesis.families import vocabulary
from fission_grpo.tasks.synthesis.families.family import (
    Api,
    Draw,
    InitialState,
    RequestGenerator,
    Setup,
    Wordings,
    call,
    one_call,
)


def _tweet(rng: Random, number: int, author: str) -> dict[str, Any]:
    return {
        "id": number,
        "username": author,
        "content": vocabulary.phrase(rng, 2, 4),
        "tags": [f"#{rng.choice(vocabulary.NOUNS)}"],
        "mentions": [],
    }


def _initial_state(rng: Random) -> dict[str, Any]:
    first = rng.randint(100, 9000)
    numbers = sorted(rng.sample(range(first, first + 60), 4))
    tweets = {str(n): _tweet(rng, n, rng.choice(vocabulary.PEOPLE)) for n in numbers}
    commented = str(rng.choice(numbers))
    return {
        "username": vocabulary.user_name(rng),
        "password": vocabulary.password(rng),
        "authenticated": True,
        "tweets": tweets,
        "comments": {commented: [{"username": rng.choice(vocabulary.PEOPLE), "content": vocabulary.phrase(rng)}]},
        "retweets": {},
        "following_list": rng.sample(vocabulary.PEOPLE, 4),
        "tweet_counter": first + 70,
    }


def _login(initial: InitialState, request: Draw, unmet: bool) -> Draw:
    initial.state["authenticated"] = not unmet
    slots = {"username": initial.state["username"], "password": initial.state["password"]}
    return Draw(slots=slots, calls=(call("authenticate_twitter", **slots),) if unmet else ())


TWITTER_LOGIN = Setup(
    name="twitter_login",
    fixers=("authenticate_twitter",),
    arrange=_login,
    notes=Wordings(
        train=(
            "my twitter login is {username} with password {password}",
            "the twitter account is {username}, password {password}",
            "authenticate as {username} with password {password} if needed",
            "twitter username {username}, password {password}",
            "if a login is needed, use {username} and {password}",
            "the username is {username} and the password is {password}",
        ),
        heldout=(
            "the twitter login is {username}, password {password}",
            "if needed, authenticate with username {username} and password {password}",
        ),
    ),
)


def _number(initial: InitialState) -> int:
    return int(initial.take(sorted(initial.state["tweets"])))


def _post(initial: InitialState) -> Draw:
    return one_call("post_tweet", content=vocabulary.phrase(initial.rng, 2, 4))


def _post_tagged(initial: InitialState) -> Draw:
    tags = [f"#{noun}" for noun in vocabulary.several(initial.rng, vocabulary.NOUNS, 1, 2)]
    return one_call("post_tweet", content=vocabulary.phrase(initial.rng, 2, 4), tags=tags)


def _retweet(initial: InitialState) -> Draw:
    return one_call("retweet", tweet_id=_number(initial))


def _comment(initial: InitialState) -> Draw:
    return one_call("comment", tweet_id=_number(initial), comment_content=vocabulary.phrase(initial.rng))


def _follow(initial: InitialState) -> Draw:
    strangers = [person for person in vocabulary.PEOPLE if person not in initial.state["following_list"]]
    return one_call("follow_user", username_to_follow=initial.take(strangers))


def _unfollow(initial: InitialState) -> Draw:
    return one_call("unfollow_user", username_to_unfollow=initial.take(initial.state["following_list"]))


def _following(initial: InitialState) -> Draw:
    return one_call("list_all_following")


def _mention(initial: InitialState) -> Draw:
    people = vocabulary.several(initial.rng, vocabulary.PEOPLE, 1, 2)
    return one_call("mention", tweet_id=_number(initial), mentioned_usernames=people)


def _get(initial: InitialState) -> Draw:
    return one_call("get_tweet", tweet_id=_number(initial))


TWITTER = Api(
    name="TwitterAPI",
    initial_state=_initial_state,
    generators=(
        RequestGenerator(
            name="post",
            draw=_post,
            setups=(TWITTER_LOGIN,),
            wordings=Wordings(
                train=(
                    "post a tweet saying {content}",
                    "tweet {content}",
                    "post {content} as a tweet",
                    "publish a tweet with the text {content}",
                    "write a tweet with the content {content}",
                    "put out the tweet {content}",
                ),
                heldout=("publish the tweet {content}", "post a tweet with the content {content}"),
            ),
        ),
        RequestGenerator(
            name="post_tagged",
            draw=_post_tagged,
            setups=(TWITTER_LOGIN,),
            topic="post",
            wordings=Wordings(
                train=(
                    "post a tweet saying {content} with the tags {tags}",
                    "tweet {content}, tagged {tags}",
                    "post {content} as a tweet with tags {tags}",
                    "publish a tweet with the text {content} and the tags {tags}",
                    "with tags {tags}, write the tweet {content}",
                    "put out the tweet {content} and tag it {tags}",
                ),
                heldout=(
                    "publish the tweet {content}, tagged {tags}",
                    "post a tweet with the text {content} and tags {tags}",
                ),
            ),
        ),
        RequestGenerator(
            name="retweet",
            draw=_retweet,
            setups=(TWITTER_LOGIN,),
            wordings=Wordings(
                train=(
                    "retweet tweet {tweet_id}",
                    "retweet the tweet with id {tweet_id}",
                    "share tweet number {tweet_id} by a retweet",
                    "make a retweet of {tweet_id}",
                    "I like tweet {tweet_id}, retweet it",
                    "please retweet {tweet_id}",
                ),
                heldout=("make a retweet of the tweet with id {tweet_id}", "retweet tweet number {tweet_id}"),
            ),
        ),
        RequestGenerator(
            name="comment",
            draw=_comment,
            setups=(TWITTER_LOGIN,),
            weight=1.3,
            wordings=Wordings(
                train=(
                    "comment {comment_content} on tweet {tweet_id}",
                    "add the comment {comment_content} to tweet {tweet_id}",
                    "write {comment_content} under tweet {tweet_id} as a comment",
                    "comment on tweet {tweet_id}: {comment_content}",
                    "tweet {tweet_id} should get the comment {comment_content}",
                    "leave a comment on the tweet {tweet_id} saying {comment_content}",
                ),
                heldout=(
                    "leave the comment {comment_content} under tweet {tweet_id}",
                    "write a comment on tweet {tweet_id} saying {comment_content}",
                ),
            ),
        ),
        RequestGenerator(
            name="follow",
            draw=_follow,
            setups=(TWITTER_LOGIN,),
            wordings=Wordings(
                train=(
                    "follow {username_to_follow}",
                    "follow the user {username_to_follow}",
                    "start following {username_to_follow}",
                    "I want to follow {username_to_follow}",
                    "add {username_to_follow} to the users I follow",
                    "make me follow user {username_to_follow}",
                ),
                heldout=("start following the user {username_to_follow}", "I want to follow user {username_to_follow}"),
            ),
        ),
        RequestGenerator(
            name="unfollow",
            draw=_unfollow,
            setups=(TWITTER_LOGIN,),
            wordings=Wordings(
                train=(
                    "unfollow {username_to_unfollow}",
                    "unfollow the user {username_to_unfollow}",
                    "stop following {username_to_unfollow}",
                    "I want to unfollow {username_to_unfollow}",
                    "drop {username_to_unfollow} from the users I follow",
                    "make me unfollow user {username_to_unfollow}",
                ),
                heldout=(
                    "stop following the user {username_to_unfollow}",
                    "I want to unfollow user {username_to_unfollow}",
                ),
            ),
        ),
        RequestGenerator(
            name="following",
            draw=_following,
            setups=(TWITTER_LOGIN,),
            weight=0.6,
            wordings=Wordings(
                train=(
                    "list all users I follow",
                    "show whom I am following",
                    "tell me all the users that I follow",
                    "get the list of users I am following",
                    "give me my following list",
                    "whom do I follow, list them",
                ),
                heldout=("show my following list", "get the list of all users that I follow"),
            ),
        ),
        RequestGenerator(
            name="mention",
            draw=_mention,
            weight=0.8,
            wordings=Wordings(
                train=(
                    "mention {mentioned_usernames} in tweet {tweet_id}",
                    "in the tweet {tweet_id}, mention {mentioned_usernames}",
                    "add a mention of {mentioned_usernames} to tweet {tweet_id}",
                    "tweet {tweet_id} should mention {mentioned_usernames}",
                    "make tweet {tweet_id} mention {mentioned_usernames}",
                    "put a mention of {mentioned_usernames} in the tweet with id {tweet_id}",
                ),
                heldout=(
                    "add a mention of {mentioned_usernames} to the tweet with id {tweet_id}",
                    "put a mention of {mentioned_usernames} in tweet {tweet_id}",
                ),
            ),
        ),
        RequestGenerator(
            name="get_tweet",
            draw=_get,
            weight=0.8,
            wordings=Wordings(
                train=(
                    "show tweet {tweet_id}",
                    "get the tweet with id {tweet_id}",
                    "look up tweet {tweet_id}",
                    "tell me what tweet {tweet_id} says",
                    "read tweet number {tweet_id}",
                    "give me the tweet {tweet_id}",
                ),
                heldout=("look up the tweet with id {tweet_id}", "show me tweet number {tweet_id}"),
            ),
        ),
    ),
)
