package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"mtm"
	"mtm/sql/schema"
)

func startJobs(t *testing.T) *jobs {
	j := newJobs(&daemon{cfg: config{NodeID: 1}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.ErrorIs(t, <-done, context.Canceled) })
	return j
}

func asker(pid int32, text string) schema.Question {
	return schema.Question{PID: pid, Text: text, Admin: true}
}

func TestOnlyAdministratorsHaveJobsDone(t *testing.T) {
	j := startJobs(t)
	for _, text := range []string{"d2", "a", "nabc", "pabc", "j", "k0"} {
		_, failure, known := j.answer(schema.Question{PID: 1, Text: text})
		require.True(t, known)
		require.Equal(t, "42501", failure.Code, text)
	}
	require.Empty(t, j.arguments)
	for _, text := range []string{"l", "omtm-1-1-1"} {
		_, _, known := j.answer(asker(1, text))
		require.False(t, known, text)
	}
}

// TestJobThatNobodyFollowsIsEnded, and then there is room for another. Its session can tell what became of it, others cannot.
func TestJobThatNobodyFollowsIsEnded(t *testing.T) {
	j := startJobs(t)
	j.wait = 50 * time.Millisecond
	ended := make(chan error, 1)
	block := func(ctx context.Context, tell func(string)) (string, error) {
		tell("halfway")
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return "", &mtm.Error{Code: "55000", Msg: "été", Detail: "naïve 😀", Hint: "h", Err: context.Cause(ctx)}
	}
	require.Nil(t, j.begin(7, block))
	require.Equal(t, "55006", j.begin(8, block).Code)
	require.Equal(t, "55000", func() string { _, f, _ := j.answer(asker(8, "j")); return f.Code }())
	require.ErrorContains(t, <-ended, "is gone, or was cancelled")
	text := "r"
	for strings.HasPrefix(text, "r") {
		var failure *mtm.Error
		text, failure, _ = j.answer(asker(7, "j"))
		require.Nil(t, failure)
	}
	require.Equal(t, "f", text)
	report := ""
	for {
		piece, failure, _ := j.answer(asker(7, "k"+strconv.Itoa(len(report))))
		require.Nil(t, failure)
		if piece == "" {
			break
		}
		report += piece
	}
	require.NotContains(t, report, "é")
	var e map[string]string
	require.NoError(t, json.Unmarshal([]byte(report), &e))
	require.Equal(t, map[string]string{"code": "55000", "msg": "été", "detail": "naïve 😀", "hint": "h"}, e)
	require.Nil(t, j.begin(8, func(context.Context, func(string)) (string, error) { return "5", nil }))
	for text = "r"; strings.HasPrefix(text, "r"); {
		text, _, _ = j.answer(asker(8, "j"))
	}
	require.Equal(t, "d5", text)
}

func TestArgumentsAreBounded(t *testing.T) {
	j := newJobs(&daemon{})
	part := strings.Repeat("x", 40)
	_, failure, _ := j.answer(asker(1, "n"+part))
	require.Nil(t, failure)
	for range maxArgument/40 - 1 {
		_, failure, _ = j.answer(asker(1, "p"+part))
		require.Nil(t, failure)
	}
	_, failure, _ = j.answer(asker(1, "p"+part))
	require.Equal(t, "22023", failure.Code)
	for pid := range int32(10 * maxArguments) {
		_, failure, _ = j.answer(asker(pid, "n"+part))
		require.Nil(t, failure)
		require.LessOrEqual(t, len(j.arguments), maxArguments)
	}
	for _, bad := range []string{"", "4", "=", "0=h:1", "x=h:1", "4=h", "4=:1", "4=h:0", "4=h:70000"} {
		_, failure, _ = j.answer(asker(1, "n"+base64.StdEncoding.EncodeToString([]byte(bad))))
		require.Nil(t, failure)
		_, failure, _ = j.answer(asker(1, "a"))
		require.Equal(t, "22023", failure.Code, bad)
	}
	_, failure, _ = j.answer(asker(1, "dx"))
	require.Equal(t, "22023", failure.Code)
}

func TestReportOfAPlainError(t *testing.T) {
	require.JSONEq(t, `{"code": "55000", "msg": "no", "detail": "", "hint": ""}`, reportOf(errors.New("no")))
}
